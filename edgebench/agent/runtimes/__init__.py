"""What executes artifacts, one file a runtime.

A runtime's module defines:

- `FORMATS`: the artifact formats it opens, and `INSTALL`: what to type where it is missing;
- `load_library() -> str`: imports its library and gives its version, or raises `Unsupported`;
- `prepare(feed)`: the feed as the library takes it, outside the clock and before memory is looked at;
- `open_session(path, threads) -> Session`.

A Session has `provider`, `run(prepared)`, which is what the clock sees, `named_outputs(outputs)` and `close()`. It may
have `adapt(prepared)`, which makes of it what this file's `run` takes, outside the clock as well; and `one_at_a_time`,
the name of what cannot run two inferences at once.

A runtime of a GPU has `ON_GPU = True`. Its `run` is from host memory to host memory and ends when all is done, so that
its figures stand beside a CPU's; it refuses with `Unsupported` whatever it would run on the CPU. Its Session also has:

- `parts(prepared) -> (to_device_ns, compute_ns, to_host_ns)` of one inference, and `parts_method`, how they are taken;
- `lead_in_s`: for so long it runs untimed before a turn, as a card lowers its clocks while others have theirs;
- `gpu_memory() -> (bytes, method)`, or None where only the driver can tell;
- `gpu_uuid`: which card it is, "GPU-...", or None where the library does not tell.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable

from ..feeds import Feed


class Unsupported(Exception):
    """This runtime cannot work here; the message ends with what installs it, or with what to do instead."""


def find(name: str) -> Any:
    """The runtime's module: `onnxruntime-cuda` is in `onnxruntime_cuda.py`.

    Raises:
        Unsupported: there is none.
    """
    module = name.replace("-", "_")
    try:
        return importlib.import_module("." + module, __name__)
    except ModuleNotFoundError as error:
        if error.name != __name__ + "." + module:
            raise
        words = "edgebench's agent does not run %s: a tool under `tools` in the device's profile may (docs/devices.md)"
        raise Unsupported(words % name) from error


def preparation(runtime: Any, session: Any) -> Callable[[Feed], Any]:
    """What makes the argument of the session's `run` of a feed."""
    adapt = getattr(session, "adapt", None)
    if adapt is None:
        prepare: Callable[[Feed], Any] = runtime.prepare
        return prepare
    return lambda feed: adapt(runtime.prepare(feed))


def on_gpu(name: str) -> bool:
    """Whether the runtime of this name uses a GPU; its library is not imported for that."""
    try:
        return bool(getattr(find(name), "ON_GPU", False))
    except Unsupported:
        return False
