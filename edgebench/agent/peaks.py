"""What the device can do at most, tried for about a second: matrix products in float32 and int8, and a copy of memory.

What others do on the machine makes a try slower and never faster, so the best of many is the one to believe. It is what
the libraries that are there reach, and no data sheet's: numpy's own BLAS may be a slow one, so onnxruntime tries as
well where it is installed. The small ONNX models for that are spelled out in protobuf (onnx.proto), because a device
has no onnx package.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Optional, Tuple

from .roofline import Roofline
from .runtimes import Unsupported
from .sysfs import read_text
from .wire import WIRE_VERSION, Job, Measurement

# Products of these sides, as long as one try of the next is short.
_SIDES = (256, 512, 1024, 2048)
_LONGEST_TRY_S = 0.05
_PRODUCT_S, _COPY_S = 0.06, 0.3
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 512 << 20
# Of onnx.proto's TensorProto.DataType.
_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6


def measure_peaks(job: Job) -> Measurement:
    """The roofline with the job's number of threads.

    Raises:
        Unsupported: numpy is not there.
    """
    # A BLAS reads them when it is loaded, and numpy loads it.
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "BLIS_NUM_THREADS"):
        os.environ[name] = str(job.threads)
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise Unsupported("numpy is not installed: pip install numpy") from error
    rates = {
        "numpy": _best_product(_by_numpy),
        "onnxruntime": _best_product(lambda side: _by_onnxruntime(side, job.threads, _FLOAT)),
    }
    flops, by = max((rate, name) for name, rate in rates.items() if rate is not None)
    int8 = _best_product(lambda side: _by_onnxruntime(side, job.threads, _INT8))
    method = "float32 by %s%s" % (by, "" if int8 is None else ", int8 by onnxruntime")
    found = Roofline(job.threads, flops, int8, _copied_bytes_per_s(job.threads), method)
    return Measurement(WIRE_VERSION, "ok", rooflines=(found,))


def _best_product(prepare: Callable[[int], Optional[Callable[[], object]]]) -> Optional[int]:
    """Operations a second of the fastest product; None where `prepare` gives none."""
    best = 0.0
    for side in _SIDES:
        run = prepare(side)
        if run is None:
            return None
        seconds = _shortest(run, _PRODUCT_S)
        best = max(best, 2 * side**3 / seconds)
        # The next one has eight times the work.
        if 8 * seconds > _LONGEST_TRY_S:
            break
    return int(best)


def _shortest(run: Callable[[], object], for_s: float) -> float:
    """Seconds of the shortest try in `for_s`, after one that brings it all into memory."""
    run()
    best = float("inf")
    end = time.perf_counter() + for_s
    while True:
        started = time.perf_counter()
        run()
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended > end:
            return best


def _by_numpy(side: int) -> Callable[[], object]:
    import numpy

    matrix = numpy.resize(numpy.linspace(-1, 1, 997, dtype=numpy.float32), (side, side))
    out = numpy.empty_like(matrix)
    return lambda: numpy.matmul(matrix, matrix, out=out)


def _by_onnxruntime(side: int, threads: int, kind: int) -> Optional[Callable[[], object]]:
    """The product of a matrix with constant weights, as a network has them."""
    import numpy

    from .runtimes import onnxruntime as runtime

    try:
        runtime.load_library()
    except Unsupported:
        return None
    from onnxruntime import InferenceSession

    values = numpy.resize(numpy.linspace(-100, 100, 997), (side, side))
    weights = values.astype(numpy.float32 if kind == _FLOAT else numpy.int8)
    given = values.astype(numpy.float32) if kind == _FLOAT else (values + 100).astype(numpy.uint8)
    model = _matmul_model(side, kind, weights.tobytes())
    session = InferenceSession(model, runtime.session_options(threads), providers=[runtime.PROVIDER])
    return lambda: session.run(None, {"a": given})


def _matmul_model(side: int, kind: int, weights: bytes) -> bytes:
    """An ONNX ModelProto: `c = MatMul(a, weights)` in float32, or MatMulInteger of uint8 and int8."""
    operator, given, result = ("MatMul", _FLOAT, _FLOAT) if kind == _FLOAT else ("MatMulInteger", _UINT8, _INT32)

    def value(name: bytes, element: int) -> bytes:
        shape = _field(1, _field(1, side)) * 2
        return _field(1, name) + _field(2, _field(1, _field(1, element) + _field(2, shape)))

    node = _field(1, b"a") + _field(1, b"b") + _field(2, b"c") + _field(4, operator.encode())
    constant = _field(1, side) * 2 + _field(2, kind) + _field(8, b"b") + _field(9, weights)
    inputs, outputs = _field(11, value(b"a", given)), _field(12, value(b"c", result))
    graph = _field(1, node) + _field(2, b"product") + _field(5, constant) + inputs + outputs
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + bytes(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes(found + bytearray([value]))


def _copied_bytes_per_s(threads: int) -> int:
    """Bytes read and written a second by a copy, a part by each thread."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy

    size = _copied_bytes()
    # Ones: pages that nobody wrote are all one and the same page of zeros.
    source, target = numpy.ones(size // 8), numpy.empty(size // 8)
    ends = [len(source) * number // threads for number in range(threads + 1)]
    parts = [(target[start:end], source[start:end]) for start, end in zip(ends, ends[1:])]
    with ThreadPoolExecutor(threads) as pool:
        return int(2 * source.nbytes / _shortest(lambda: list(pool.map(_copy, parts)), _COPY_S))


def _copy(part: Tuple[Any, Any]) -> None:
    import numpy

    # Without the interpreter's lock, so that threads copy at once.
    numpy.copyto(*part)


def _copied_bytes(root: str = "/") -> int:
    """Twice what the last-level cache holds, as far as there is memory for two of it."""
    cache = 0
    for index in range(8):
        text = read_text(root, "sys/devices/system/cpu/cpu0/cache/index%d/size" % index)
        if text and text[-1] in "KM" and text[:-1].isdigit():
            cache = max(cache, int(text[:-1]) << (10 if text[-1] == "K" else 20))
    wanted = min(_MOST_BYTES, max(_LEAST_BYTES, 2 * cache))
    for line in (read_text(root, "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return min(wanted, int(rest.split()[0]) * 1024 // 8)
    return wanted
