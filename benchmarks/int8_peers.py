"""int8 by this project and by its peers, side by side: accuracy, agreement, noise, latency, and what quantizing costs.

    python -m benchmarks.int8_peers [--peer NAME=PYTHON ...] [NETWORK ...]

Every tool gets the same float32 ONNX file and the same calibration inputs, runs in a process of its own, and all that
they made is then measured in one process. A peer whose interpreter is not given is skipped. Their environments, the
last of each line being what they need and do not declare:

    python -m venv onnxruntime && onnxruntime/bin/pip install onnx onnxruntime sympy
    python -m venv nncf && nncf/bin/pip install nncf onnx onnxruntime
    python -m venv olive && olive/bin/pip install olive-ai onnx onnxruntime requests
    python -m venv onnx-neural-compressor && onnx-neural-compressor/bin/pip install \
        onnx-neural-compressor onnx onnxruntime prettytable psutil py-cpuinfo scipy

and then `--peer nncf=nncf/bin/python` and so on. docs/benchmarks.md has the table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.int8_measure import answers, open_session, paired_times
from benchmarks.int8_networks import NETWORKS, SHARED, WORK, Prepared, prepare
from benchmarks.int8_report import markdown
from benchmarks.int8_tools import ENVIRONMENTS, TOOLS

ROOT = Path(__file__).resolve().parents[1]
# A quantizer that takes longer than this is stopped: NNCF takes two minutes for what others do in ten seconds.
LIMIT_S = 900.0
BASELINE, OURS = "fp32", "edgebench"
_RAISED = re.compile(r"[\w.]*(Error|Exception|Fail|InvalidGraph|NotImplemented)\w*: ")
_ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "OLIVE_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}


def _quantize(tool: str, python: str | None, network: Prepared, *, reuse: bool) -> dict[str, Any]:
    """Run `tool` by `python`; what it cost, or why there is nothing."""
    directory = network.directory / "made"
    directory.mkdir(exist_ok=True)
    out, record = directory / f"{tool}.onnx", directory / f"{tool}.json"
    if reuse and record.is_file():
        kept: dict[str, Any] = json.loads(record.read_text())
        return kept
    if python is None:
        return {"failed": f"skipped: give its interpreter with --peer {ENVIRONMENTS[tool]}=PYTHON"}
    out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile("w+") as log:
        # A cache of ours would take the place of the work.
        environment = os.environ | _ENVIRONMENT | {"EDGEBENCH_HOME": home, "PYTHONPATH": str(ROOT)}
        if tool in ENVIRONMENTS:
            del environment["PYTHONPATH"]
        script = Path(__file__).with_name("int8_tools.py")
        started = time.perf_counter()
        process = subprocess.Popen(
            [python, str(script), tool, str(network.model), str(network.calibration), str(out)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        process.wait()
        stopped = not limit.is_alive()
        limit.cancel()
        seconds = time.perf_counter() - started
        log.seek(0)
        lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    result: dict[str, Any] = {
        "seconds": seconds,
        "peak_bytes": next((int(line.removeprefix("peak: ")) for line in lines if line.startswith("peak: ")), None),
        "notes": [line.removeprefix("note: ") for line in lines if line.startswith("note: ")],
    }
    if process.returncode != 0 or not out.is_file():
        result["failed"] = f"stopped after {LIMIT_S:.0f} s" if stopped else _cause(lines, process.returncode)
    record.write_text(json.dumps(result, indent=1))
    return result


def _cause(lines: list[str], code: int) -> str:
    """The exception that began it, as the tool put it, else the last line."""
    raised = (line for line in lines if _RAISED.match(line))
    return next(raised, lines[-1] if lines else f"exit code {code}")


def _compare(network: Prepared, results: dict[str, dict[str, Any]], rounds: int) -> None:
    """Measure what was made, and write the figures into `results`."""
    sessions = {}
    for tool, result in results.items():
        if "failed" in result:
            continue
        try:
            sessions[tool] = open_session(network.directory / "made" / f"{tool}.onnx")
        except Exception as error:  # noqa: BLE001 - whatever a file of someone else's makes the runtime raise
            result["failed"] = f"onnxruntime cannot load it: {str(error).splitlines()[0]}"
    found = answers(sessions, BASELINE, network.test)
    times = paired_times(sessions, network.test, rounds)
    for tool in sessions:
        given = found[tool]
        results[tool] |= {
            "sqnr_db": None if math.isinf(given.sqnr_db) else given.sqnr_db,
            "agrees": given.agrees,
            "correct": given.correct,
            "times_s": times[tool],
            "file_bytes": (network.directory / "made" / f"{tool}.onnx").stat().st_size,
        }


def main() -> int:
    """Print one table per network, and keep all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    parser.add_argument("--peer", metavar="NAME=PYTHON", action="append", default=[], help="a peer's interpreter")
    parser.add_argument("--work", type=Path, default=WORK, help="where networks are kept (default: %(default)s)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="trained networks (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="of the figures (default: `out` below --work)")
    parser.add_argument("--rounds", type=int, default=25, help="of latency (default: %(default)s)")
    parser.add_argument("--reuse", action="store_true", help="measure peers' files of an earlier run where they exist")
    arguments = parser.parse_args()
    interpreters = dict(pair.partition("=")[::2] for pair in arguments.peer)
    for given, known in ((interpreters, set(ENVIRONMENTS.values())), (arguments.names, set(NETWORKS))):
        if unknown := set(given) - known:
            parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(sorted(known))}")
    if missing := [python for python in interpreters.values() if not Path(python).is_file()]:
        parser.error(f"no interpreter at {', '.join(missing)}; write --peer NAME=PYTHON")
    work: Path = arguments.work.resolve()
    out: Path = arguments.out or work / "out"
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= _ENVIRONMENT
    for name in arguments.names:
        try:
            network = prepare(name, work, arguments.shared.resolve())
        except FileNotFoundError as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        results = {}
        for tool in TOOLS:
            python = interpreters.get(ENVIRONMENTS[tool]) if tool in ENVIRONMENTS else sys.executable
            print(f"{name}: {tool}", file=sys.stderr)
            results[tool] = _quantize(tool, python, network, reuse=arguments.reuse and tool not in (OURS, BASELINE))
        _compare(network, results, arguments.rounds)
        (out / f"{name}.json").write_text(json.dumps(results, indent=1))
        print(markdown(name, results, BASELINE, OURS), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
