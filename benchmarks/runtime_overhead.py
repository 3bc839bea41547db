"""What the agent's way of calling each runtime adds to a bare loop over that runtime's own API.

    edgebench export torchvision:mobilenet_v2 --formats torchscript,onnx,ncnn,executorch -o network
    python benchmarks/runtime_overhead.py network [--rounds 15]

In one process, with one thread, an artifact is opened twice in each round: by the agent's runtime, and as the runtime's
documentation does. Two sessions of one file lie elsewhere in memory, which alone can be worth percents, either way: so
they are opened anew for each. The agent's turns alternate with the bare loop, in an order drawn anew; the ratio is of
their p50. The limit is 1.03; it has not held when the interval lies above it. A runtime that is not installed, or has
no artifact in the bundle, is named and left out.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgebench import stats
from edgebench.agent.environment import switch_telemetry_off
from edgebench.agent.feeds import Tensor
from edgebench.agent.loop import Loop
from edgebench.agent.runtimes import Unsupported, find
from edgebench.agent.runtimes.ncnn import PARAM
from edgebench.agent.wire import TensorSpec
from edgebench.bundle import load_bundle
from edgebench.model_inputs import random_feed

LIMIT = 1.03
TURN, LAPS, LEAST_ROUNDS, FEEDS = 5, 20, 8, 4

Arrays = list[NDArray[Any]]
Call = Callable[[], object]
Laps = dict[int, Sequence[int]]


def _onnxruntime(path: str, feeds: list[Arrays]) -> list[Call]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    named = [dict(zip(names, arrays, strict=True)) for arrays in feeds]
    return [lambda feed=feed: session.run(None, feed) for feed in named]  # type: ignore[misc]


def _openvino(path: str, feeds: list[Arrays]) -> list[Call]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    tensors = [{index: openvino.Tensor(array) for index, array in enumerate(arrays)} for arrays in feeds]
    return [lambda feed=feed: request.infer(feed) for feed in tensors]  # type: ignore[misc]


def _ncnn(path: str, feeds: list[Arrays]) -> list[Call]:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    with zipfile.ZipFile(path) as archive:
        net.load_param_mem(archive.read(PARAM).decode())
    net.load_model(path)

    def call(matrices: list[Any]) -> Any:
        extractor = net.create_extractor()
        for index, matrix in enumerate(matrices):
            extractor.input(f"in{index}", matrix)
        return extractor.extract("out0")

    cloned = [[ncnn.Mat(array[0]).clone() for array in arrays] for arrays in feeds]
    return [lambda matrices=matrices: call(matrices) for matrices in cloned]  # type: ignore[misc]


def _torchscript(path: str, feeds: list[Arrays]) -> list[Call]:
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(path).eval()

    def call(tensors: list[Any]) -> Any:
        with torch.inference_mode():
            return module(*tensors)

    given = [[torch.from_numpy(array) for array in arrays] for arrays in feeds]
    return [lambda tensors=tensors: call(tensors) for tensors in given]  # type: ignore[misc]


def _executorch(path: str, feeds: list[Arrays]) -> list[Call]:
    import torch
    from executorch.extension.pybindings import portable_lib

    # Its pool was set by the agent's session, and is the process's.
    module = portable_lib._load_for_executorch(path)
    given = [[torch.from_numpy(array) for array in arrays] for arrays in feeds]
    return [lambda tensors=tensors: module.forward(tensors) for tensors in given]  # type: ignore[misc]


BARE: dict[str, Callable[[str, list[Arrays]], list[Call]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "torchscript": _torchscript,
    "executorch": _executorch,
}


def _timed(calls: list[Call], runs: int) -> list[int]:
    """What everyone writes."""
    samples = []
    for index in range(runs):
        call = calls[index % len(calls)]
        started = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - started)
    return samples


def _ratio(name: str, path: str, arrays: list[dict[str, NDArray[Any]]], most_rounds: int) -> tuple[stats.Ratio, float]:
    """The agent's p50 over the bare loop's, and the bare one in milliseconds."""
    order = random.Random(0)
    rounds: list[tuple[Laps, Laps]] = []
    while True:
        rounds.append(_round(name, path, arrays, order))
        ratio = stats.ratio(rounds)
        assert ratio is not None
        known = ratio.ci is not None and not ratio.ci[0] <= LIMIT < ratio.ci[1]
        if len(rounds) >= most_rounds or (known and len(rounds) >= LEAST_ROUNDS):
            every = [sample for bare, _ in rounds for samples in bare.values() for sample in samples]
            return ratio, statistics.median(every) / 1e6


def _round(name: str, path: str, arrays: list[dict[str, NDArray[Any]]], order: random.Random) -> tuple[Laps, Laps]:
    """The bare loop's samples and the agent's, of two fresh sessions."""
    runtime = find(name)
    session = runtime.open_session(path, 1)
    prepared = [runtime.prepare({key: _tensor(key, array) for key, array in one.items()}) for one in arrays]
    loop = Loop(session.run, prepared)
    bare_calls = BARE[name](path, [list(one.values()) for one in arrays])
    loop.warm_up(10, 0.5, 5.0)
    _timed(bare_calls, 10)
    bare: Laps = {}
    ours: Laps = {}
    for lap in range(LAPS):
        first = order.random() < 0.5
        for agent in (not first, first):
            if agent:
                loop.lead_in(1.0)
                ours[lap] = loop.turn(TURN, 1.0)
            else:
                _timed(bare_calls, 1)
                bare[lap] = _timed(bare_calls, TURN)
    session.close()
    return bare, ours


def _tensor(name: str, array: NDArray[Any]) -> Tensor:
    return Tensor(TensorSpec(name, tuple(array.shape), str(array.dtype)), memoryview(array.tobytes()))


def main() -> int:
    """Print a line for each runtime; 1 when one is beyond the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="directory that `edgebench export` made")
    parser.add_argument("--rounds", type=int, default=15, help="at most, of 20 pairs of turns each (default: 15)")
    given = parser.parse_args()
    switch_telemetry_off()
    warnings.simplefilter("ignore", FutureWarning)
    bundle = load_bundle(given.bundle)
    arrays = [random_feed(bundle.inputs, seed=0, index=index) for index in range(FEEDS)]
    gc.collect()
    gc.freeze()
    gc.disable()
    held = True
    for name in BARE:
        runtime = find(name)
        artifact = next((one for one in bundle.artifacts if one.format in runtime.FORMATS and one.status == "ok"), None)
        if artifact is None or artifact.file is None:
            print(f"{name}: the bundle has none of {', '.join(runtime.FORMATS)}")
            continue
        try:
            version = runtime.load_library()
        except Unsupported as error:
            print(f"{name}: {error}")
            continue
        ratio, bare_ms = _ratio(name, str(given.bundle / artifact.file), arrays, max(given.rounds, LEAST_ROUNDS))
        assert ratio.ci is not None
        low, high = ratio.ci
        known = "held" if high <= LIMIT else "BROKEN" if low > LIMIT else "not known: give more --rounds"
        held = held and low <= LIMIT
        print(
            f"{name} {version}, {artifact.file}, {bare_ms:.2f} ms: {ratio.ratio:.3f} x its bare loop "
            f"[{low:.3f}, {high:.3f}], {ratio.rounds} rounds; limit {LIMIT}: {known}"
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
