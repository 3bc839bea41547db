"""A device by its shell alone: small scripts, a lock, and a cache of files that were pushed by hash."""

from __future__ import annotations

import getpass
import platform
import secrets
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from edgebench.agent.lock import NATIVE_STALE_S
from edgebench.errors import DeviceError
from edgebench.files import file_sha256
from edgebench.targets.commands import Completed, capture, feed
from edgebench.targets.remote import work_dir_of
from edgebench.targets.target import LinkLost, Target
from edgebench.types import DeviceProfile

__all__ = ["DeviceShell"]

_COMMAND_S = 60.0
_STALL_S = 30.0
_DONE = "@@done"
_MOST_ATTEMPTS = 5

# $1 the lock, $2 who takes it, $3 after how many silent seconds it is stale, $4 for how long it will be silent, $5
# the work directory. Uptime and not the clock, which may be set; another boot id is another life of the device.
_LOCK = r"""
now=$(cut -d. -f1 /proc/uptime); boot=$(cat /proc/sys/kernel/random/boot_id)
look() { owner_boot= at= since= owner=; read -r owner_boot at since owner 2>/dev/null <"$1/owner"; }
mkdir -p "$5"
# A host with edgebench's agent has another lock, and the heartbeat of its session.
if [ -s "$5/lock" ]; then
    for beat in "$5"/sessions/*/heartbeat; do
        read -r at 2>/dev/null <"$beat" && [ "${at%.*}" -gt $((now - 120)) ] || continue
        echo "busy 0 0 $(sed 's/.*"owner": "\([^"]*\)".*/\1/' "$5/lock") x"
        exit 0
    done
fi
if ! mkdir "$1" 2>/dev/null; then
    # Whoever has just made it is about to write its name.
    look "$1" || { sleep 1; look "$1"; }
    if [ "$owner_boot" = "$boot" ] && [ "${at:-0}" -gt $((now - $3)) ]; then
        [ "$owner" = "$2" ] || { echo "busy $((now - since)) $((now - at)) $owner"; exit 0; }
    else
        # One at a time breaks it, and only if it is still what was seen; a door left by a crash is of its minute only.
        seen="$owner_boot $at $since $owner" door="$1.$boot.$((now / 60))"
        mkdir "$door" 2>/dev/null || { echo "busy 0 0 another host, which was faster"; exit 0; }
        look "$1"
        [ "$owner_boot $at $since $owner" = "$seen" ] && rm -rf "$1" && mkdir "$1" 2>/dev/null
        taken=$?
        rmdir "$door"
        [ "$taken" = 0 ] || { echo "busy 0 0 another host, which was faster"; exit 0; }
        since=$now
    fi
else
    since=$now
fi
echo "$boot $((now + ${4:-0})) ${since:-$now} $2" >"$1/owner.new" && mv "$1/owner.new" "$1/owner" && echo held
"""


# $1 a file. What an earlier push over a link that is cut still holds back must not be appended to this one's.
_SIZES = """
read -r pid 2>/dev/null <"$1.pid" && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = cat ] && kill -9 "$pid"
rm -f "$1.pid"
for f in "$1" "$1.part"; do wc -c <"$f" 2>/dev/null || echo -1; done
touch -c "$1"
"""

# $1 the cache, $2 its bound in kB, $3 the files that stay; prints the kB that are free.
_TRIM = """
cd "$1" || exit 0
ls -t | while read -r f; do
    set -- "$1" "$2" "$3" $(du -k "$f")
    total=$((total + $4))
    case " $3 " in *" ${f%.part} "*) ;; *) [ "$total" -gt "$2" ] && rm -f "$f" ;; esac
done
set -- $(df -Pk . | tail -n 1)
echo "$4"
"""


class DeviceShell:
    """The shell of the device of `profile`, over a target that is connected."""

    def __init__(self, profile: DeviceProfile, target: Target) -> None:
        self._profile = profile
        self._target = target
        self.work_dir = work_dir_of(profile)
        self.cache = f"{self.work_dir}/cache"
        self.owner = f"{getpass.getuser()}@{platform.node()} {secrets.token_hex(4)}"

    def run(self, script: str, *arguments: str) -> Completed:
        """Run a script to its end.

        Raises:
            LinkLost: it did not come to its end.
        """
        # adb ends with 0 also where its link went: only what was printed last tells that all of it was done.
        text = f"( {script}\n)\necho {_DONE}\n"
        done = capture(self._target.argv(["sh", "-s", *arguments]), timeout_s=_COMMAND_S, stdin=text.encode())
        stdout, mark, _ = done.stdout.rpartition(_DONE)
        if done.timed_out or not mark:
            raise LinkLost(done.stderr.strip() or "a command did not come back")
        return replace(done, stdout=stdout)

    def hold(self, silent_s: float = 0.0) -> None:
        """Take the lock, or say that it is still held and will be for so long without another word."""
        words = (f"{self.work_dir}/lock.d", self.owner, str(NATIVE_STALE_S), str(int(silent_s)), self.work_dir)
        answer = self.run(_LOCK, *words).stdout.strip()
        if answer.startswith("busy"):
            _, age_s, _, other = answer.split(" ", 3)
            raise self.error(
                f"is in use by {other.rpartition(' ')[0] or other}, since {age_s} s",
                f"wait until it is done; if that host is gone, remove {self.work_dir}/lock.d on the device",
            )
        if answer != "held":
            raise self.error(f"could not be locked: {answer or 'its shell said nothing'}")

    def push(self, path: Path, kept: Collection[str], advance: Callable[[int], None]) -> str:
        """Where a file is on the device, once it is there; for room for it none of `kept` (hashes) is thrown away."""
        sha256, size = file_sha256(path), path.stat().st_size
        there = f"{self.cache}/{sha256}"
        for _ in range(_MOST_ATTEMPTS):
            whole, partial = (int(line) for line in self.run(_SIZES, there).stdout.split())
            if whole == size:
                return there
            self._make_room(size - max(0, partial), kept)
            if partial > size:
                self.run('rm -f "$1.part"', there)
                partial = 0
            argv = self._target.argv(["sh", "-c", 'echo $$ >"$1.pid"; exec cat >>"$1.part"', "sh", there])
            feed(argv, path, max(0, partial), stall_s=_STALL_S, advance=advance)
            done = self.run('sha256sum "$1.part" && wc -c <"$1.part"', there)
            if done.stdout.startswith(sha256):
                # A device that loses its power afterwards must not have the name without the content.
                self.run('chmod 755 "$1.part" && sync && mv "$1.part" "$1" && rm -f "$1.pid"', there)
            elif done.stdout.split()[-1:] == [str(size)]:
                # Whole in length and not in content: begin anew.
                self.run('rm -f "$1.part"', there)
        raise self.error(f"did not take {path.name} ({size} bytes)")

    def _make_room(self, size: int, kept: Collection[str]) -> None:
        """Throw away what was used least lately until the cache is within its bound, and see that there is room."""
        bound_kb = (self._profile.cache_mb << 10) - (size >> 10)
        free = self.run(_TRIM, self.cache, str(max(0, bound_kb)), " ".join(kept)).stdout.strip()
        if free.isdigit() and int(free) * 1024 < size + (16 << 20):
            hint = f"free some space, or set `work_dir` in devices/{self._profile.name}.toml"
            raise self.error(f"has no room: {int(free) >> 10} MB are free, {size >> 20} MB are needed", hint)

    def error(self, what: str, hint: str | None = None) -> DeviceError:
        """An error of this device, in words that come after its name."""
        default = f"check the device and its cable, or run: edgebench devices doctor {self._profile.name}"
        return DeviceError(f"device `{self._profile.name}` {what} ({self._target.address})", hint=hint or default)
