"""Start-up: `edgebench --help` against a Python that imports argparse and rich, whole processes, in turn.

python benchmarks/startup.py [--runs 30]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LIMIT = 3.0
EDGEBENCH = "import sys; sys.argv = ['edgebench', '--help']; from edgebench.cli.main import main; main()"
PEERS = {
    "python -c 'import argparse, rich.console'": "import argparse, rich.console",
    "python -c 'import argparse'": "import argparse",
    "edgebench --help": EDGEBENCH,
}


def _seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def main() -> int:
    """Print the ratio; 1 when it is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    for _ in range(runs):
        for name, code in PEERS.items():
            times[name].append(_seconds(code))
    base = statistics.median(times["python -c 'import argparse, rich.console'"])
    for name, values in times.items():
        print(f"{name:45} {statistics.median(values) / base:5.2f} x argparse + rich")
    ratio = statistics.median(times["edgebench --help"]) / base
    print(f"limit {LIMIT}: {'held' if ratio <= LIMIT else 'BROKEN'}")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
