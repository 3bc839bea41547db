"""What a whole export costs against the bare library calls: wall time and peak memory of whole processes, in turn.

    python benchmarks/export_cost.py [--rounds 3] [--images DATA]

One process calls the libraries as their documentation shows (trace, dynamo export, onnxsim, quantize_static with 64
images), the other is `edgebench export` with an empty cache, which also proves parity. The limits are 1.15 times the
time and 1.2 times the memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

TIME_LIMIT, MEMORY_LIMIT = 1.15, 1.2
IMAGES = 64

BARE = """
import sys, pathlib, warnings
warnings.simplefilter("ignore")
import numpy as np, torch, torchvision, onnx, onnxsim
from PIL import Image
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
out = pathlib.Path(sys.argv[2])
torch.manual_seed(0)
model = torchvision.models.resnet18().eval()
transform = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
files = sorted(pathlib.Path(sys.argv[1]).rglob("*.png"))
def inputs():
    for file in files:
        yield {"input": transform(Image.open(file).convert("RGB"))[None].numpy()}
x = torch.from_numpy(next(inputs())["input"])
with torch.no_grad():
    torch.jit.save(torch.jit.freeze(torch.jit.trace(model, x)), str(out / "m.pt"))
program = torch.onnx.export(
    model, (x,), dynamo=True, opset_version=20, input_names=["input"], external_data=False, verbose=False
)
program.save(str(out / "m.onnx"), external_data=False)
simplified, _ = onnxsim.simplify(onnx.load(out / "m.onnx"))
onnx.save(simplified, out / "m.sim.onnx")
class Reader(CalibrationDataReader):
    def __init__(self): self.feeds = inputs()
    def get_next(self): return next(self.feeds, None)
quant_pre_process(str(out / "m.sim.onnx"), str(out / "m.pre.onnx"), skip_symbolic_shape=True)
quantize_static(
    str(out / "m.pre.onnx"), str(out / "m.int8.onnx"), Reader(), quant_format=QuantFormat.QDQ,
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
)
"""

EDGEBENCH = """
import sys
from edgebench.cli.main import main
sys.exit(main(["export", "torchvision:resnet18", "-o", sys.argv[2] + "/m.eb", "--calib", "imagefolder:" + sys.argv[1],
               "--samples", "64"]))
"""


def _cost(code: str, images: Path) -> tuple[float, int]:
    """Seconds and peak RSS in bytes of a process that runs `code`."""
    with tempfile.TemporaryDirectory() as out:
        environment = {**os.environ, "EDGEBENCH_HOME": f"{out}/home", "ORT_DISABLE_TELEMETRY": "1"}
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(images), out],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # wait4 gives the peak of this one child; RUSAGE_CHILDREN would give the largest of all so far.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit("a process failed; run it by hand to see why")
        return seconds, _peak_bytes(usage)


def _peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    """Print both ratios; 1 when one is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory:
        # The cost does not depend on what the images show; photographs of this size decode at the same speed.
        generator = np.random.default_rng(0)
        images = Path(directory) / "images"
        images.mkdir()
        for index in range(IMAGES):
            pixels = generator.integers(0, 255, (299, 299, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{index:03}.png")
        costs = [(_cost(BARE, images), _cost(EDGEBENCH, images)) for _ in range(rounds)]
    times = [ours[0] / bare[0] for bare, ours in costs]
    memories = [ours[1] / bare[1] for bare, ours in costs]
    print(f"bare calls: {statistics.median(bare[0] for bare, _ in costs):.1f} s")
    print(f"edgebench export: {statistics.median(ours[0] for _, ours in costs):.1f} s")
    print(f"time   {statistics.median(times):.2f} x bare calls (rounds {_list(times)}), limit {TIME_LIMIT}")
    print(f"memory {statistics.median(memories):.2f} x bare calls (rounds {_list(memories)}), limit {MEMORY_LIMIT}")
    held = statistics.median(times) <= TIME_LIMIT and statistics.median(memories) <= MEMORY_LIMIT
    print("held" if held else "BROKEN")
    return 0 if held else 1


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
