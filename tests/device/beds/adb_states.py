"""What looks like an adbd, to make a real `adb devices` say `unauthorized` or `offline`, which Debian's never does.

A message is six little-endian 32-bit words (command, two arguments, length and sum of the data, the command inverted)
and its data: AOSP, packages/modules/adb/protocol.txt.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from contextlib import suppress
from typing import Literal

from .adb import AdbServer

__all__ = ["AdbStateBed"]

_HEADER = struct.Struct("<6I")
_AUTH = int.from_bytes(b"AUTH", "little")
_TOKEN = 1


class AdbStateBed:
    """A device in that state for `server`, under `serial`.

    Unauthorized: it answers each signature with a new token and a public key with silence, as a phone does whose owner
    has not yet said yes. Offline: it accepts the connection and never says a word.
    """

    def __init__(self, server: AdbServer, state: Literal["unauthorized", "offline"]) -> None:
        self.server = server
        self.adb = server.adb
        self.environment = server.environment
        self._state = state
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name=f"adb {state}", daemon=True)
        self._thread.start()
        # `adb connect` waits 10 s for a device that never answers; it is offline from the start.
        with suppress(subprocess.TimeoutExpired):
            server.run("connect", self.serial, timeout_s=1)
        server.wait_for_state(self.serial, state, timeout_s=20)

    def close(self) -> None:
        self.server.run("disconnect", self.serial)
        # accept() does not notice a close from another thread, but does notice this.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=5)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError, EOFError):
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        while True:
            command, kind, _, length, _, _ = _HEADER.unpack(_read(connection, _HEADER.size))
            _read(connection, length)
            public_key = command == _AUTH and kind == 3
            if self._state == "unauthorized" and not public_key:
                token = bytes(range(20))
                words = (_AUTH, _TOKEN, 0, len(token), sum(token), _AUTH ^ 0xFFFFFFFF)
                connection.sendall(_HEADER.pack(*words) + token)


def _read(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        received = connection.recv(length - len(data))
        if not received:
            raise EOFError
        data += received
    return data
