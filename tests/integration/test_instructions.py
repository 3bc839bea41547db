"""Counting for real: by the machine's own counter where it has one, below qemu-user where that is installed."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.agent.instructions import ENVIRONMENT, NoCounters, architecture, open_counter
from edgebench.agent.under_qemu import QemuPrefix, prepare

ROOT = Path(__file__).resolve().parents[2]

# Two instructions a turn.
LOOPS = {
    "x86_64": "1: dec %0; jnz 1b",
    "aarch64": "1: subs %0, %0, #1; b.ne 1b",
}

LOOP_SOURCE = """
#include <pthread.h>
static pthread_barrier_t all;
static void *work(void *turns) {
    pthread_barrier_wait(&all);
    asm volatile("LOOP" : "+r"(turns) : : "cc");
    return turns;
}
void loop(unsigned long threads, unsigned long turns) {
    pthread_t started[threads];
    pthread_barrier_init(&all, 0, threads);
    for (unsigned long i = 0; i < threads; i++) pthread_create(&started[i], 0, work, (void *)turns);
    for (unsigned long i = 0; i < threads; i++) pthread_join(started[i], 0);
}
"""

COUNT_LOOP = """
import ctypes, sys
from edgebench.agent.instructions import count, open_counter
counter = open_counter()
threads = int(sys.argv[2])
loop = ctypes.CDLL(sys.argv[1]).loop
loop.argtypes = [ctypes.c_ulong, ctypes.c_ulong]
print(*count(lambda turns: loop(threads, turns), [1, 100001], counter, 10, 2))
"""

COUNT_ONNX = """
import sys
from edgebench.agent.environment import switch_telemetry_off
from edgebench.agent.instructions import count, open_counter
switch_telemetry_off()
counter = open_counter()
import numpy
from edgebench.agent.runtimes import onnxruntime
session = onnxruntime.open_session(sys.argv[1], 1)
feed = {"x": numpy.linspace(-1, 1, 3 * 32 * 32, dtype=numpy.float32).reshape(1, 3, 32, 32)}
print(*count(session.run, [feed], counter, 10, 5))
"""


@pytest.fixture(scope="module")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> QemuPrefix:
    try:
        return prepare(str(tmp_path_factory.mktemp("a directory, with a comma")))
    except NoCounters as error:
        pytest.skip(str(error))


@pytest.fixture(params=["hardware", "qemu"])
def either(request: pytest.FixtureRequest) -> QemuPrefix:
    """Both ways of counting, hardware counters being qemu's prefix without qemu."""
    if request.param == "qemu":
        prefix: QemuPrefix = request.getfixturevalue("qemu")
        return prefix
    try:
        open_counter()
    except NoCounters as error:
        pytest.skip(str(error))
    return QemuPrefix((), ENVIRONMENT)


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    """A library whose `loop(threads, turns)` executes two instructions a turn in each of so many threads at a time."""
    if architecture() not in LOOPS or shutil.which("cc") is None:
        pytest.skip("needs a C compiler on x86-64 or 64-bit ARM")
    path = tmp_path / "loop.so"
    source = LOOP_SOURCE.replace("LOOP", LOOPS[architecture()])
    command = ["cc", "-O1", "-shared", "-fPIC", "-pthread", "-x", "c", "-o", str(path), "-"]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def counts(prefix: QemuPrefix, script: str, *arguments: object) -> list[int]:
    """What a fresh process that runs `script` prints."""
    ended = subprocess.run(
        [*prefix.argv, sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, **prefix.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [int(word) for word in ended.stdout.split()]


def convolutions(layers: int) -> bytes:
    """An ONNX model: [1, 3, 32, 32], and that many 3x3 convolutions of 8 channels."""
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(layers):
        kernel = generator.standard_normal((8, 8 if layer else 3, 3, 3), np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        inputs = [f"y{layer - 1}" if layer else "x", f"w{layer}"]
        nodes.append(helper.make_node("Conv", inputs, [f"y{layer}"], pads=[1, 1, 1, 1]))
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info(f"y{layers - 1}", TensorProto.FLOAT, [1, 8, 32, 32])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


# 300 are more than the plugin has slots for.
@pytest.mark.parametrize("threads", [1, 4, 300])
def test_a_loop_counts_its_instructions_in_all_threads(either: QemuPrefix, loop: Path, threads: int) -> None:
    short, long = counts(either, COUNT_LOOP, loop, threads)
    # Two instructions in each of 100,000 turns more; threads that wait for each other vary a little.
    assert long - short == pytest.approx(200_000 * threads, rel=0.005)


def test_two_processes_count_the_same_and_twice_the_layers_count_more(qemu: QemuPrefix, tmp_path: Path) -> None:
    for layers in (3, 6):
        (tmp_path / f"{layers}.onnx").write_bytes(convolutions(layers))
    first, second, deeper = (
        statistics.median(counts(qemu, COUNT_ONNX, tmp_path / name)) for name in ("3.onnx", "3.onnx", "6.onnx")
    )
    assert second == pytest.approx(first, rel=0.001)
    assert deeper > 1.5 * first


def test_the_plugin_is_compiled_once_and_marks_do_not_stay(qemu: QemuPrefix) -> None:
    counts(qemu, "from edgebench.agent.instructions import open_counter; open_counter(); print(0)")
    directory = Path(qemu.environment["EDGEBENCH_MARKS"]).parent
    (plugin,) = directory.iterdir()
    compiled = plugin.stat().st_mtime_ns
    assert prepare(str(directory)) == qemu
    assert plugin.stat().st_mtime_ns == compiled
