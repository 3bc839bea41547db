"""Benchmark tools of other projects: recorded logs, and what is refused.

Expected numbers are the log's own, moved by the decimal point.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.agent.codec import decode, encode
from edgebench.agent.runtimes import onnxruntime, tflite
from edgebench.agent.wire import Measurement, Summary
from edgebench.targets.native import (
    TOOLS,
    ToolOutputError,
    executorch_runner,
    onnxruntime_perf_test,
    tflite_benchmark_model,
)
from edgebench.targets.native.reading import Log

# github.com/yuenshome/yuenshome.github.io issue 77 (2019); the header is that of the thread's next run.
TFLITE_2019 = """\
STARTING!
Min num runs: [10]
Min runs duration (seconds): [1]
Inter-run delay (seconds): [-1]
Num threads: [1]
Benchmark name: []
Output prefix: []
Min warmup runs: [4]
Min warmup runs duration (seconds): [0.5]
Graph: [/data/local/tmp/tflite/tfmodel/mobilenet_v1_1.0_224_quant.tflite]
Input layers: []
Input shapes: []
Use nnapi : [0]
nnapi error: unable to open library libneuralnetworks.so
Loaded model /data/local/tmp/tflite/tfmodel/mobilenet_v1_1.0_224_quant.tflite
resolved reporter
Initialized session in 9.933ms
Running benchmark for at least 4 iterations and at least 0.5 seconds
count=7 first=127425 curr=66709 min=66709 max=127425 avg=76605.9 std=20944

Running benchmark for at least 10 iterations and at least 1 seconds
count=15 first=66753 curr=66800 min=66699 max=66838 avg=66767.6 std=39

Average inference timings in us: Warmup: 76605.9, Init: 9933, no stats: 66767.6
"""

# A board vendor's manual for TensorFlow Lite 1.12: one run of warm-up has neither first= nor avg=.
TFLITE_1_12 = """\
STARTING!
Num runs: [50]
Inter-run delay (seconds): [-1]
Num threads: [1]
Benchmark name: []
Output prefix: []
Warmup runs: [1]
Graph: [mobilenet_v1_1.0_224_quant.tflite]
Input layers: []
Input shapes: []
Use nnapi : [0]
Loaded model mobilenet_v1_1.0_224_quant.tflite
resolved reporter
Initialized session in 4.452ms
Running benchmark for 1 iterations
count=1 curr=146161

Running benchmark for 50 iterations
count=50 first=137789 curr=137254 min=137079 max=143416 avg=137722 std=896

Average inference timings in us: Warmup: 146161, Init: 4452, no stats: 137722
"""

# github.com/tensorflow/tensorflow issue 42507 (2020).
TFLITE_2020 = """\
STARTING!
Duplicate flags: num_threads
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [/data/local/tmp/espcn_harmonic_2x_slim_w_cl.tflite]
Enable op profiling: [1]
#threads used for CPU inference: [4]
Loaded model /data/local/tmp/espcn_harmonic_2x_slim_w_cl.tflite
The input model file size (MB): 0.004448
Initialized session in 0.855ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450

Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, Inference (avg): 33209.4
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory \
footprint of the model at runtime. Take the information at your discretion.
Peak memory footprint (MB): init=0 overall=12.8672
"""

# What follows in the log of a riscv64 (the documentation of a TensorFlow Lite layer for Yocto, v2.8.0), shortened.
TFLITE_PROFILE = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]
\t         AllocateTensors\t            0.000\t    1.356\t    1.356\t100.000%\t100.000%\t     0.000\t        1

Number of nodes executed: 1
Timings (microseconds): count=1 curr=1356
Memory (bytes): count=0
1 nodes observed

Operator-wise Profiling Info for Regular Benchmark Runs:
Timings (microseconds): count=50 first=2989660 curr=2912978 min=2727203 max=3189476 avg=2.9499e+06 std=109770
Memory (bytes): count=0
31 nodes observed
"""

# Texas Instruments' documentation of the AM62x SDK: with `INFO: `, percentiles, and powers of ten.
TFLITE_NEW = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Graph: [/usr/share/oob-demo-assets/models/ssd_mobilenet_v2_coco.tflite]
INFO: Signature to run: []
INFO: Use xnnpack: [0]
INFO: Loaded model /usr/share/oob-demo-assets/models/ssd_mobilenet_v2_coco.tflite
INFO: The input model file size (MB): 67.3128
INFO: Initialized session in 5.579ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 p5=1238753 median=1239807 \
p95=1247415

INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, Inference (avg): \
1.24027e+06
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832
"""

# LiteRT's build instructions (2025).
LITERT = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [4]
INFO: [litert/tools/benchmark_litert_model.cc:137] Loading model from: blaze_face_short_range.tflite
INFO: [litert/core/environment.cc:29] Creating LiteRT environment with options
WARNING: [litert/runtime/accelerators/auto_registration.cc:46] NPU accelerator could not be loaded and registered: \
kLiteRtStatusErrorInvalidArgument.
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1758455104.504065   62590 accelerator_registry.cc:51] RegisterAccelerator: ptr=0x559f, name=CpuAccelerator
INFO: [litert/runtime/compiled_model.cc:229] Applying compiler plugins...
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 0.229746
INFO: Initialized session in 5.757ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=526 first=2125 curr=969 min=910 max=2125 avg=949.861 std=68 p5=915 median=939 p95=990

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=1054 first=1015 curr=942 min=910 max=1102 avg=947.132 std=23 p5=915 median=942 p95=991

INFO: [./litert/tools/benchmark_litert_model.h:72]
========== BENCHMARK RESULTS ==========
INFO: [./litert/tools/benchmark_litert_model.h:73] Model initialization: 5.76 ms
INFO: [./litert/tools/benchmark_litert_model.h:75] Warmup (first):       2.12 ms
INFO: [./litert/tools/benchmark_litert_model.h:77] Warmup (avg):         0.95 ms (526 runs)
INFO: [./litert/tools/benchmark_litert_model.h:79] Inference (avg):      0.95 ms (1054 runs)
INFO: [./litert/tools/benchmark_litert_model.h:83] Inference (min):      0.91 ms
INFO: [./litert/tools/benchmark_litert_model.h:85] Inference (max):      1.10 ms
INFO: [./litert/tools/benchmark_litert_model.h:87] Inference (std):      0.02
INFO: [./litert/tools/benchmark_litert_model.h:94] Throughput:           197.97 MB/s
INFO: [./litert/tools/benchmark_litert_model.h:103]
Memory Usage:
INFO: [./litert/tools/benchmark_litert_model.h:105] Init footprint:       4.06 MB
INFO: [./litert/tools/benchmark_litert_model.h:107] Overall footprint:    7.07 MB
INFO: [./litert/tools/benchmark_litert_model.h:114] Peak memory usage not available. (peak_mem_mb <= 0)
INFO: [./litert/tools/benchmark_litert_model.h:117] ======================================

I0000 00:00:1758455106.022223   62590 accelerator_registry.cc:40] DestroyAccelerator: ptr=0x559f, name=CpuAccelerator
"""

# github.com/mlcommons/mobile_app_open issue 1134 (2026), where the lines before the table were left away.
LITERT_TABLE = """\
========== BENCHMARK RESULTS ==========
INFO: [benchmark_litert_model.h:92] Signature name:       prefill_1024
INFO: [benchmark_litert_model.h:94] Model initialization: 23744.73 ms
INFO: [benchmark_litert_model.h:96] Warmup (first):       7441.04 ms
INFO: [benchmark_litert_model.h:98] Warmup (avg):         7441.04 ms (1 runs)
INFO: [benchmark_litert_model.h:100] Inference (avg):      7430.20 ms (10 runs)
INFO: [benchmark_litert_model.h:104] Inference (min):      7416.40 ms
INFO: [benchmark_litert_model.h:106] Inference (max):      7448.86 ms
INFO: [benchmark_litert_model.h:108] Inference (std):      9.92
INFO: [benchmark_litert_model.h:115] Throughput:           27.46 MB/s
INFO: [benchmark_litert_model.h:124]
Memory Usage:
INFO: [benchmark_litert_model.h:126] Init footprint:       6391.74 MB
INFO: [benchmark_litert_model.h:128] Overall footprint:    6391.74 MB
INFO: [benchmark_litert_model.h:135] Peak memory usage not available. (peak_mem_mb <= 0)
"""

# Arm's learning path on profiling ONNX Runtime with SME2 (2025).
ORT_NEW = """\
Setting intra_op_num_threads to 1
Disabling intra-op thread spinning between runs
Session creation time cost: 0.217932 s
First inference time cost: 196 ms
Total inference time cost: 0.49481 s
Total inference requests: 5
Average inference time cost total: 98.961997 ms
Total inference run time: 0.494854 s
Number of inferences per second: 10.104
Avg CPU usage: 11 %
Peak working set size: 271122432 bytes
Avg CPU usage:11
Peak working set size:271122432
Runs:5
Min Latency: 0.0958204 s
Max Latency: 0.101519 s
P50 Latency: 0.0995086 s
P90 Latency: 0.101519 s
P95 Latency: 0.101519 s
P99 Latency: 0.101519 s
P999 Latency: 0.101519 s
"""

# A board vendor's manual for ONNX Runtime 1.20.1.
ORT_1_20 = """\
Session creation time cost: 0.0273071 s
First inference time cost: 20 ms
Total inference time cost: 0.14188 s
Total inference requests: 8
Average inference time cost: 17.735 ms
Total inference run time: 0.141991 s
Number of inferences per second: 56.3415
Avg CPU usage: 98 %
Peak working set size: 35299328 bytes
Avg CPU usage:98
Peak working set size:35299328
Runs:8
Min Latency: 0.0159831 s
Max Latency: 0.0232702 s
P50 Latency: 0.0167086 s
P90 Latency: 0.0232702 s
P95 Latency: 0.0232702 s
P99 Latency: 0.0232702 s
P999 Latency: 0.0232702 s
"""

# github.com/ARM-software/ComputeLibrary issue 850 (ONNX Runtime 1.3.1).
ORT_1_3 = """\
Session creation time cost: 0.127918 s
Total inference time cost: 1.44871 s
Total inference requests: 10
Average inference time cost: 144.871 ms
Total inference run time: 1.44916 s
Avg CPU usage: 68 %
Peak working set size: 158171136 bytes
"""

# github.com/microsoft/onnxruntime pull request 2798 (January 2020).
ORT_2020 = """\
Setting intra_op_num_threads to 0
2020-01-08 11:14:46.9047758 [W:onnxruntime:, graph.cc:2412 onnxruntime::Graph::CleanUnusedInitializers] Removing \
initializer 'gpu_0/imagenet1k_blobs_queue_f22e83c9-22cd-4a8b-a66d-113af6b832b4_0'. It is not used by any node and \
should be removed from the model.
Session creation time cost:1.84149 s
Total inference time cost:0.734606 s
Total inference requests:1
Average inference time cost:734.606 ms
Total inference run time:0.734761 s
"""

# github.com/microsoft/onnxruntime issue 17313; in performance_runner.h of that version the unit is "sec" without space.
ORT_OLDEST = """\
Total time cost: 58.8053
Total iterations: 1000
Average time cost: 58.8053 ms
Total run time: 58.8102 s
Min Latency is 0.0559777 sec
Max Latency is 0.0623472 sec
P50 Latency is 0.0587108sec
P90 Latency is 0.0599845sec
P95 Latency is 0.0605676 sec
P99 Latency is 0.0619517 sec
P999 Latency is 0.0623472 sec
"""

# Arm's learning path on executor_runner with XNNPACK (2025), shortened.
EXECUTORCH = """\
D 00:00:00.015988 executorch:XNNPACKBackend.cpp:57] Creating XNN workspace
D 00:00:00.018719 executorch:XNNPACKBackend.cpp:69] Created XNN workspace: 0xaff21c2323e0
I 00:00:00.035506 executorch:executor_runner.cpp:157] Resetting threadpool with num threads = 1
I 00:00:00.048120 executorch:threadpool.cpp:48] Resetting threadpool to 1 threads.
I 00:00:00.051509 executorch:executor_runner.cpp:218] Model file model/linear_model_f32.pte is loaded.
I 00:00:00.051531 executorch:executor_runner.cpp:227] Using method forward
I 00:00:00.051541 executorch:executor_runner.cpp:278] Setting up planned buffer 0, size 2112.
D 00:00:00.051630 executorch:method.cpp:793] Loading method: forward.
D 00:00:00.091432 executorch:XNNExecutor.cpp:236] Resizing output tensor to a new shape
I 00:00:00.091459 executorch:executor_runner.cpp:340] Model executed successfully 1 time(s) in 2.904883 ms.
I 00:00:00.091477 executorch:executor_runner.cpp:349] 1 outputs:
OutputX 0: tensor(sizes=[1, 256], [
  0.0106399, 0.0951964, 1.04854, -0.290168, -0.278126, -0.355151, 0.0583736, -0.431953, -0.0773305, -0.32844,
  ...,
  0.553568, -0.0339369, 0.562088, -1.21021, -0.769254, 0.677771, -0.264338, 1.05453, 0.724467, 0.53182,
])
I 00:00:00.093912 executorch:executor_runner.cpp:125] ETDump written to file 'model/linear_model_f32.etdump'.
"""

# Lines of pytorch/executorch's executor_runner.cpp at commit 018a3a52 (2026); the first two times are those of a log in
# a public project's own tests, which ends after one iteration.
EXECUTORCH_2026 = """\
I 00:00:01.370000 executorch:executor_runner.cpp:565] Model file mv2.pte is loaded.
I 00:00:01.370100 executorch:executor_runner.cpp:575] Using method forward
I 00:00:01.370200 executorch:executor_runner.cpp:649] Setting up CPU planned buffer 0, size 9936896.
I 00:00:05.833558 executorch:executor_runner.cpp:718] Model loaded in 4463.268273 ms.
I 00:00:06.075611 executorch:executor_runner.cpp:880] Iteration 1 of 3: 241.944288 ms
I 00:00:06.285611 executorch:executor_runner.cpp:880] Iteration 2 of 3: 210.000001 ms
I 00:00:06.485611 executorch:executor_runner.cpp:880] Iteration 3 of 3: 200.000000 ms
I 00:00:06.485701 executorch:executor_runner.cpp:889] Model executed successfully 3 time(s) in 651.944289 ms.
I 00:00:06.485801 executorch:executor_runner.cpp:893] 1 outputs:
OutputX 0: tensor(sizes=[2, 2], [3., 3., 3., 3.])
"""

# The documentation of ExecuTorch 0.4.
EXECUTORCH_UNTIMED = """\
I 00:00:00.000526 executorch:executor_runner.cpp:82] Model file add.pte is loaded.
I 00:00:00.000595 executorch:executor_runner.cpp:91] Using method forward
I 00:00:00.000612 executorch:executor_runner.cpp:138] Setting up planned buffer 0, size 48.
I 00:00:00.000669 executorch:executor_runner.cpp:161] Method loaded.
I 00:00:00.000685 executorch:executor_runner.cpp:171] Inputs prepared.
I 00:00:00.000764 executorch:executor_runner.cpp:180] Model executed successfully.
I 00:00:00.000770 executorch:executor_runner.cpp:184] 1 outputs:
Output 0: tensor(sizes=[1], [2.])
"""

RECORDED = {
    "benchmark_model": (TFLITE_2019, TFLITE_1_12, TFLITE_2020, TFLITE_NEW, LITERT, LITERT_TABLE),
    "onnxruntime_perf_test": (ORT_NEW, ORT_1_20, ORT_1_3, ORT_2020, ORT_OLDEST),
    "executor_runner": (EXECUTORCH, EXECUTORCH_2026),
}
EACH = [pytest.param(name, log, id=f"{name}-{at}") for name, logs in RECORDED.items() for at, log in enumerate(logs)]


def _told(tool: str, log: str) -> tuple[int | None, int | None, Summary | None]:
    measured = TOOLS[tool].parse(log, "")
    return measured.load_ns, measured.first_ns, measured.summary


@pytest.mark.parametrize(
    ("log", "load_ns", "first_ns", "summary"),
    [
        (
            TFLITE_2019,
            9_933_000,
            127_425_000,
            Summary(runs=15, mean_ns=66_767_600, stdev_ns=39_000, min_ns=66_699_000, max_ns=66_838_000),
        ),
        (
            TFLITE_1_12,
            4_452_000,
            146_161_000,
            Summary(runs=50, mean_ns=137_722_000, stdev_ns=896_000, min_ns=137_079_000, max_ns=143_416_000),
        ),
        (
            TFLITE_2020,
            855_000,
            49_060_000,
            Summary(runs=50, mean_ns=33_209_400, stdev_ns=450_000, min_ns=32_641_000, max_ns=34_005_000),
        ),
        (
            TFLITE_NEW,
            5_579_000,
            1_357_602_000,
            Summary(
                runs=50,
                mean_ns=1_240_270_000,
                stdev_ns=2_565_000,
                min_ns=1_238_588_000,
                max_ns=1_252_566_000,
                p50_ns=1_239_807_000,
                p95_ns=1_247_415_000,
            ),
        ),
        (
            LITERT,
            5_757_000,
            2_125_000,
            Summary(
                runs=1054,
                mean_ns=947_132,
                stdev_ns=23_000,
                min_ns=910_000,
                max_ns=1_102_000,
                p50_ns=942_000,
                p95_ns=991_000,
            ),
        ),
        (
            LITERT_TABLE,
            23_744_730_000,
            7_441_040_000,
            Summary(runs=10, mean_ns=7_430_200_000, stdev_ns=9_920_000, min_ns=7_416_400_000, max_ns=7_448_860_000),
        ),
    ],
    ids=["2019", "1.12", "2020", "new", "litert", "litert-table"],
)
def test_benchmark_model_is_read_as_it_printed_through_the_years(
    log: str, load_ns: int, first_ns: int, summary: Summary
) -> None:
    assert _told("benchmark_model", log) == (load_ns, first_ns, summary)


@pytest.mark.parametrize(
    ("log", "load_ns", "first_ns", "summary"),
    [
        (
            ORT_NEW,
            217_932_000,
            196_000_000,
            Summary(
                runs=5,
                mean_ns=98_961_997,
                min_ns=95_820_400,
                max_ns=101_519_000,
                p50_ns=99_508_600,
                p90_ns=101_519_000,
                p95_ns=101_519_000,
                p99_ns=101_519_000,
            ),
        ),
        (
            ORT_1_20,
            27_307_100,
            20_000_000,
            Summary(
                runs=8,
                mean_ns=17_735_000,
                min_ns=15_983_100,
                max_ns=23_270_200,
                p50_ns=16_708_600,
                p90_ns=23_270_200,
                p95_ns=23_270_200,
                p99_ns=23_270_200,
            ),
        ),
        (ORT_1_3, 127_918_000, None, Summary(runs=10, mean_ns=144_871_000)),
        (ORT_2020, 1_841_490_000, None, Summary(runs=1, mean_ns=734_606_000)),
        (
            ORT_OLDEST,
            None,
            None,
            Summary(
                runs=1000,
                mean_ns=58_805_300,
                min_ns=55_977_700,
                max_ns=62_347_200,
                p50_ns=58_710_800,
                p90_ns=59_984_500,
                p95_ns=60_567_600,
                p99_ns=61_951_700,
            ),
        ),
    ],
    ids=["new", "1.20", "1.3", "2020", "oldest"],
)
def test_perf_test_is_read_as_it_printed_through_the_years(
    log: str, load_ns: int | None, first_ns: int | None, summary: Summary
) -> None:
    assert _told("onnxruntime_perf_test", log) == (load_ns, first_ns, summary)


def test_executor_runner_gives_the_mean_of_its_total() -> None:
    log = EXECUTORCH.replace("1 time(s) in 2.904883 ms", "10 time(s) in 4.250005 ms")

    # 4 250 005 ns / 10 = 425 000.5 ns, of the two nearest the even one. The first one's part is not told.
    assert _told("executor_runner", log) == (None, None, Summary(runs=10, mean_ns=425_000))


def test_a_single_execution_is_the_first() -> None:
    assert _told("executor_runner", EXECUTORCH) == (None, 2_904_883, Summary(runs=1, mean_ns=2_904_883))


def test_an_executor_runner_that_tells_each_iteration_gives_single_times_without_the_first() -> None:
    measured = executorch_runner.parse(EXECUTORCH_2026, "")

    assert measured.load_ns == 4_463_268_273
    assert measured.first_ns == 241_944_288
    assert measured.samples_ns == (210_000_001, 200_000_000)
    assert measured.summary is None


@pytest.mark.parametrize(("name", "log"), EACH)
def test_a_log_means_the_same_from_stderr_with_carriage_returns_and_among_chatter(name: str, log: str) -> None:
    chatter = (
        "Error in cpuinfo: failed to parse the list of possible processors in /sys/devices/system/cpu/possible\n"
        "ERROR: Following operations are not supported by GPU delegate:\nDEQUANTIZE: \n"
        "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nVERBOSE: Replacing 27 out of 31 node(s)\n"
        "2024-05-01 [E:onnxruntime:Default, env.cc:254 ThreadMain] pthread_setaffinity_np failed for thread: 9\n"
        # github.com/pytorch/executorch issue 3528, of a run that succeeded.
        "E 00:00:00.214101 executorch:method.cpp:939] Overriding output data pointer allocated by memory plan is not "
        "allowed.\n\x1b[0m\n"
    )

    assert TOOLS[name].parse(chatter, log.replace("\n", "\r\n")) == TOOLS[name].parse(log, "")


@pytest.mark.parametrize(("name", "log"), EACH)
def test_a_measurement_is_ok_survives_the_codec_and_claims_no_memory(name: str, log: str) -> None:
    measured = TOOLS[name].parse(log, "")

    assert measured.status == "ok"
    assert measured.memory is None
    assert decode(Measurement, encode(measured)) == measured


@pytest.mark.parametrize(("name", "log"), EACH)
def test_a_log_that_was_cut_off_is_never_read_as_another_one(name: str, log: str) -> None:
    whole = TOOLS[name].parse(log, "")
    lines = log.splitlines()

    for kept in range(len(lines)):
        try:
            measured = TOOLS[name].parse("\n".join(lines[:kept]), "")
        except ToolOutputError:
            continue
        # What is printed after the mean may be lacking.
        assert replace(measured, summary=None) == replace(whole, summary=None)
        for key, value in encode(measured.summary or Summary()).items():
            assert value in (None, getattr(whole.summary, key, None))


def test_profiled_operators_are_not_taken_for_the_benchmark() -> None:
    assert _told("benchmark_model", TFLITE_2020 + TFLITE_PROFILE) == _told("benchmark_model", TFLITE_2020)


def test_the_readme_of_2019_names_the_average_otherwise() -> None:
    log = TFLITE_2019.replace("no stats: ", "Inference: ")

    assert _told("benchmark_model", log) == _told("benchmark_model", TFLITE_2019)


def test_runs_of_equal_length_have_no_spread() -> None:
    equal = "INFO: count=50 curr=8(all same) p5=8 median=8 p95=8"
    log = "\n".join(
        line if "count=50" not in line else equal for line in TFLITE_NEW.replace("1.24027e+06", "8").splitlines()
    )

    summary = tflite_benchmark_model.parse(log, "").summary

    assert summary == Summary(runs=50, mean_ns=8000, min_ns=8000, max_ns=8000, p50_ns=8000, p95_ns=8000)


def test_without_a_warm_up_the_first_run_is_the_benchmarks_own() -> None:
    # benchmark_model.cc and stats_calculator.h print zeros for a warm-up of no runs.
    log = TFLITE_NEW.replace(
        "count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602", "count=0 p5=0 median=0 p95=0"
    )
    log = log.replace("First inference: 1357602, Warmup (avg): 1.3576e+06", "First inference: 0, Warmup (avg): 0")

    assert tflite_benchmark_model.parse(log, "").first_ns == 1_249_964_000


def test_a_first_inference_of_no_whole_millisecond_is_not_told() -> None:
    log = ORT_NEW.replace("cost: 196 ms", "cost: 0 ms")

    assert onnxruntime_perf_test.parse(log, "").first_ns is None


@pytest.mark.parametrize(
    ("name", "log", "old", "new", "message"),
    [
        # What is no number of the tool's unit.
        ("benchmark_model", TFLITE_2020, "avg=33209.4", "avg=nan", "expected a time in us .*found `nan`"),
        ("benchmark_model", TFLITE_2020, "avg=33209.4", "avg=-nan", "found `-nan`"),
        ("benchmark_model", TFLITE_2020, "min=32641", "min=-5", "found `-5`"),
        ("benchmark_model", TFLITE_2020, "std=450", "std=inf", "found `inf`"),
        ("benchmark_model", TFLITE_2020, "avg=33209.4 std=450", "avg=33209.4 std", "found ``"),
        ("benchmark_model", TFLITE_2020, "Init: 855", "Init: 9223372036854775807", "found years"),
        ("benchmark_model", TFLITE_2020, "timings in us", "timings in ms", "expected timings in us"),
        ("benchmark_model", TFLITE_NEW, "p95=1247415", "p95=12474l5", "found `12474l5`"),
        ("benchmark_model", LITERT, "0.95 ms (1054", "0.95 fortnights (1054", "found `0.95 fortnights`"),
        ("benchmark_model", LITERT, "(1054 runs)", "(many runs)", "expected a number of runs"),
        ("onnxruntime_perf_test", ORT_NEW, "P50 Latency: 0.0995086 s", "P50 Latency: -nan s", "found `-nan s`"),
        ("onnxruntime_perf_test", ORT_NEW, "0.0995086 s", "0.0995086", "expected a time in s, ms, us or ns"),
        ("onnxruntime_perf_test", ORT_NEW, "0.0995086 s", "0.0995086 min", "found `0.0995086 min`"),
        ("onnxruntime_perf_test", ORT_NEW, "Runs:5", "Runs:5.5", "expected a number of runs"),
        ("executor_runner", EXECUTORCH, "2.904883 ms", "-2.904883 ms", "found `-2.904883 ms`"),
        ("executor_runner", EXECUTORCH, "2.904883 ms", "2.904883 ticks", "found `2.904883 ticks`"),
        # Counts.
        ("benchmark_model", TFLITE_2020, "count=50", "count=0", "expected at least one timed run"),
        ("benchmark_model", TFLITE_2020, "count=15 first=49060 ", "", "two lines `count=...`.*, found 1"),
        ("benchmark_model", LITERT, "(1054 runs)", "(1055 runs)", "one number of runs, found 1054 and 1055"),
        ("benchmark_model", LITERT, "(526 runs)", "(1 runs)", "one number of warm-up runs, found 1 and 526"),
        ("benchmark_model", TFLITE_2020, "first=32891 curr=33978 min=32641", "min=32641", "expected `first=`"),
        ("benchmark_model", TFLITE_1_12, "count=1 curr", "count=2 curr", "expected `avg=`"),
        ("onnxruntime_perf_test", ORT_NEW, "Runs:5", "Runs:6", "one number of runs, found 5 and 6"),
        ("onnxruntime_perf_test", ORT_1_3, "Total inference requests: 10\n", "", "one number of runs, found none"),
        ("onnxruntime_perf_test", ORT_1_3, "requests: 10", "requests: 0", "expected at least one timed run"),
        ("executor_runner", EXECUTORCH, "successfully 1 time", "successfully 0 time", "expected at least one timed"),
        ("executor_runner", EXECUTORCH_2026, "Iteration 2 of 3", "Iteration 2 of 4", "expected iterations 1 to 3 of 3"),
        ("executor_runner", EXECUTORCH_2026, "Iteration 3 of", "Iteration 4 of", "expected iterations 1 to 3 of 3"),
        # Figures that contradict each other.
        ("benchmark_model", TFLITE_2020, "Init: 855", "Init: 955", "expected one Init"),
        ("benchmark_model", TFLITE_2020, "First inference: 49060", "First inference: 49061", "expected one first"),
        ("benchmark_model", TFLITE_2020, "Inference (avg): 33209.4", "Inference (avg): 33.2", "expected one mean"),
        ("benchmark_model", TFLITE_2020, "Warmup (avg): 34825.1", "Warmup (avg): 33209.4", "expected one Warmup"),
        ("benchmark_model", TFLITE_2020, "min=32641", "min=34006", "expected min to be at most"),
        ("benchmark_model", TFLITE_NEW, "median=1239807", "median=1252567", "expected p50 to be at most p95"),
        ("benchmark_model", LITERT, "(max):      1.10 ms", "(max):      1.11 ms", "expected one max"),
        ("onnxruntime_perf_test", ORT_NEW, "total: 98.961997", "total: 9.8961997", "an average of the total by 5 runs"),
        ("onnxruntime_perf_test", ORT_NEW, "P50 Latency: 0.0995086", "P50 Latency: 0.995086", "P50 to be at most P90"),
        ("onnxruntime_perf_test", ORT_NEW, "Max Latency: 0.101519", "Max Latency: 0.101518", "P999 to be at most Max"),
        ("executor_runner", EXECUTORCH_2026, "651.944289", "651.944299", "expected iterations that take 651944299 ns"),
        # Two runs in one log.
        ("benchmark_model", TFLITE_2020 * 2, "", "", "found 2"),
        ("executor_runner", EXECUTORCH * 2, "", "", "found 2"),
        # No time that the tool's clock resolves.
        ("onnxruntime_perf_test", ORT_1_3, "cost: 144.871 ms", "cost: 0 ms", "expected at least one timed run"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(name: str, log: str, old: str, new: str, message: str) -> None:
    assert old in log

    with pytest.raises(ToolOutputError, match=message):
        TOOLS[name].parse(log.replace(old, new) if old else log, "")


def test_a_device_that_answers_within_a_microsecond_is_beyond_benchmark_model() -> None:
    log = TFLITE_NEW.replace("1.24027e+06", "0")
    log = "\n".join("INFO: count=50 curr=0(all same)" if "count=50" in line else line for line in log.splitlines())

    with pytest.raises(ToolOutputError, match="runs of at least a microsecond"):
        tflite_benchmark_model.parse(log, "")


@pytest.mark.parametrize(
    ("name", "stdout", "stderr", "message"),
    [
        ("benchmark_model", "", "", "it said: nothing$"),
        ("executor_runner", "", "\n \n", "it said: nothing$"),
        # github.com/tensorflow/tensorflow issue 45986; the last line is that of benchmark_main.cc.
        (
            "benchmark_model",
            "The input model file size (MB): 31.1646\nInitialized session in 13.661ms.\nRunning benchmark for at least "
            "1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.\n",
            "ERROR: tensorflow/lite/kernels/expand_dims.cc:40 axis <= input_dims.size was not true.\n"
            "ERROR: Node number 553 (EXPAND_DIMS) failed to prepare.\n\nERROR: Benchmarking failed.\n",
            r"it said: ERROR: Node number 553 \(EXPAND_DIMS\) failed to prepare\.$",
        ),
        # The figures are printed even so: benchmark_model.cc returns the status after its listeners were told.
        ("benchmark_model", TFLITE_NEW, "ERROR: Benchmarking failed.\n", "it said: ERROR: Benchmarking failed.$"),
        ("benchmark_model", TFLITE_2020.partition("Inference timings")[0], "", r"it said: count=50 first=32891"),
        # github.com/microsoft/onnxruntime issue 2762.
        (
            "onnxruntime_perf_test",
            "there is no test input data for input input.1 and model resnet50\nRun failed:failed to initialize.\n",
            "",
            r"it said: there is no test input data for input input\.1 and model resnet50$",
        ),
        ("onnxruntime_perf_test", ORT_NEW + "Run failed:Non-zero status code\n", "", "it said: Run failed:Non-zero"),
        # github.com/microsoft/onnxruntime issue 21267.
        (
            "onnxruntime_perf_test",
            "",
            "onnxruntime/test/onnx/TestCase.cc:705 OnnxTestCase::OnnxTestCase test case dir doesn't exist\n",
            "it said: onnxruntime/test/onnx/TestCase.cc:705 .* doesn't exist$",
        ),
        ("onnxruntime_perf_test", "perf_test [options...]\n", "./p: invalid option -- 'I'\n", "invalid option -- 'I'$"),
        (
            "executor_runner",
            "",
            "ERROR: unknown command line flag 'cpu_threads'\n",
            "it said: ERROR: unknown command line flag 'cpu_threads'$",
        ),
        ("executor_runner", EXECUTORCH_UNTIMED, "", "expected a version that prints"),
        (
            "executor_runner",
            EXECUTORCH,
            "E 00:00:00.093912 executorch:executor_runner.cpp:120] Failed to open ETDump file at model.etdump.\n",
            "it said: E .* Failed to open ETDump file",
        ),
        (
            "executor_runner",
            EXECUTORCH,
            "F 00:00:00.1 executorch:method.cpp:9] In function main(), assert failed (status == Error::Ok): x\n",
            "it said: F .* assert failed",
        ),
    ],
)
def test_a_run_that_failed_is_told_in_the_tools_own_words(name: str, stdout: str, stderr: str, message: str) -> None:
    with pytest.raises(ToolOutputError, match=message) as caught:
        TOOLS[name].parse(stdout, stderr)

    assert str(caught.value).startswith(f"{name}: expected ")


@pytest.mark.parametrize("name", TOOLS)
@settings(max_examples=60)
@given(noise=st.text(max_size=200), at=st.integers(0, 5), where=st.floats(0, 1))
def test_garbage_raises_nothing_else(name: str, noise: str, at: int, where: float) -> None:
    log = RECORDED[name][at % len(RECORDED[name])]
    cut = int(where * len(log))

    for text in (noise, log[:cut] + noise + log[cut:], log[:cut] + noise):
        try:
            measured = TOOLS[name].parse(text, noise)
        except ToolOutputError:
            continue
        assert measured.samples_ns or (measured.summary is not None and measured.summary.mean_ns)


def _count_line(samples: list[int]) -> str:
    """As stats_calculator.h of LiteRT prints it; `%g` is what a C++ stream does with a double."""
    ordered = sorted(samples)
    percentiles = " ".join(
        f"{name}={ordered[len(ordered) * at // 100]}" for name, at in (("p5", 5), ("median", 50), ("p95", 95))
    )
    if len(set(samples)) == 1:
        return f"count={len(samples)} curr={samples[-1]}{'(all same)' if len(samples) > 1 else ''} {percentiles}"
    mean = sum(samples) / len(samples)
    return (
        f"count={len(samples)} first={samples[0]} curr={samples[-1]} min={ordered[0]} max={ordered[-1]} "
        f"avg={mean:g} std={int((sum(sample**2 for sample in samples) / len(samples) - mean**2) ** 0.5)} {percentiles}"
    )


MICROSECONDS = st.lists(st.integers(1, 10**9), min_size=1, max_size=30)


@given(warmup=MICROSECONDS, samples=MICROSECONDS, load_us=st.integers(0, 10**9))
def test_what_benchmark_model_prints_comes_back(warmup: list[int], samples: list[int], load_us: int) -> None:
    means = [f"{sum(some) / len(some):g}" for some in (warmup, samples)]
    log = (
        f"INFO: Initialized session in {load_us / 1e3:g}ms.\n"
        f"INFO: {_count_line(warmup)}\n\nINFO: {_count_line(samples)}\n\n"
        f"INFO: Inference timings in us: Init: {load_us}, First inference: {warmup[0]}, Warmup (avg): {means[0]}, "
        f"Inference (avg): {means[1]}\n"
    )

    measured = tflite_benchmark_model.parse(log, "")

    ordered = sorted(samples)
    assert measured.load_ns == load_us * 1000
    assert measured.first_ns == warmup[0] * 1000
    assert measured.summary is not None
    assert measured.summary.runs == len(samples)
    assert (measured.summary.min_ns, measured.summary.max_ns) == (ordered[0] * 1000, ordered[-1] * 1000)
    assert measured.summary.p50_ns == ordered[len(ordered) // 2] * 1000
    # Six digits are printed.
    assert measured.summary.mean_ns == pytest.approx(sum(samples) / len(samples) * 1000, rel=1e-5)


@given(samples=st.lists(st.integers(1, 10**11), min_size=1, max_size=30))
def test_what_perf_test_prints_comes_back(samples: list[int]) -> None:
    seconds = sorted(sample / 1e9 for sample in samples)
    count, total = len(seconds), sum(seconds)
    places = {"P50": 0.5, "P90": 0.9, "P95": 0.95, "P99": 0.99, "P999": 0.999}
    log = (
        f"Session creation time cost: 0.5 s\nFirst inference time cost: 7 ms\nTotal inference time cost: {total:g} s\n"
        f"Total inference requests: {count}\nAverage inference time cost total: {total / count * 1000:.6f} ms\n"
        f"Runs:{count}\nMin Latency: {seconds[0]:g} s\nMax Latency: {seconds[-1]:g} s\n"
    ) + "".join(f"{name} Latency: {seconds[int(count * share)]:g} s\n" for name, share in places.items())

    summary = onnxruntime_perf_test.parse(log, "").summary

    assert summary is not None
    assert summary.runs == count
    assert summary.mean_ns == pytest.approx(sum(samples) / count, abs=1)
    assert summary.min_ns == pytest.approx(min(samples), rel=1e-5, abs=1)
    assert summary.max_ns == pytest.approx(max(samples), rel=1e-5, abs=1)
    assert summary.p90_ns == pytest.approx(sorted(samples)[int(count * 0.9)], rel=1e-5, abs=1)


@given(samples=st.lists(st.integers(1, 10**12), min_size=2, max_size=30))
def test_what_executor_runner_prints_comes_back(samples: list[int]) -> None:
    def ms(ns: int) -> str:
        return f"{ns // 10**6}.{ns % 10**6:06}"

    lines = [f"Iteration {at} of {len(samples)}: {ms(ns)} ms" for at, ns in enumerate(samples, 1)]
    lines.append(f"Model executed successfully {len(samples)} time(s) in {ms(sum(samples))} ms.")

    measured = executorch_runner.parse("".join(f"I executorch:executor_runner.cpp:1] {line}\n" for line in lines), "")

    assert (measured.first_ns, *measured.samples_ns) == tuple(samples)


@given(ns=st.integers(0, 10**16), exponent=st.sampled_from([("s", 9), ("sec", 9), ("ms", 6), ("us", 3), ("ns", 0)]))
def test_decimal_text_becomes_nanoseconds_without_a_float_between(ns: int, exponent: tuple[str, int]) -> None:
    unit, digits = exponent
    text = f"{Decimal(ns).scaleb(-digits):f}{unit}"

    assert Log.of("tool", "", "").time(text, text).rounded_ns == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [("0.5 ns", 0), ("1.5 ns", 2), ("2.5 ns", 2), ("2.50000000001 ns", 3), ("1.24027e+06 us", 1_240_270_000)],
)
def test_halves_are_rounded_to_even(text: str, ns: int) -> None:
    assert Log.of("tool", "", "").time(text, text).rounded_ns == ns


def test_benchmark_model_is_asked_for_exact_counts() -> None:
    assert tflite_benchmark_model.argv("/data/bm", "/data/m.tflite", threads=4, warmup=5, runs=50) == [
        "/data/bm",
        "--graph=/data/m.tflite",
        "--num_threads=4",
        "--warmup_runs=5",
        "--warmup_min_secs=0",
        "--num_runs=50",
        "--min_secs=0",
        "--max_secs=86400",
    ]


def test_perf_test_is_asked_for_repetitions_on_the_cpu() -> None:
    assert onnxruntime_perf_test.argv("./perf", "m.onnx", threads=2, warmup=5, runs=50) == [
        "./perf", "-I", "-S", "1", "-m", "times", "-r", "50", "-x", "2", "-e", "cpu", "-s", "m.onnx",
    ]  # fmt: skip


def test_executor_runner_is_asked_for_warm_up_and_runs_together() -> None:
    assert executorch_runner.argv("./runner", "m.pte", threads=1, warmup=5, runs=50) == [
        "./runner",
        "--model_path=m.pte",
        "--num_executions=55",
        "--cpu_threads=1",
    ]


def test_each_format_has_one_tool() -> None:
    formats = [name for tool in TOOLS.values() for name in tool.FORMATS]

    assert sorted(formats) == sorted(["executorch", *onnxruntime.ONNX_FORMATS, *tflite.FORMATS])


@pytest.mark.parametrize("name", TOOLS)
def test_what_a_tool_cannot_say_is_said_in_sentences(name: str) -> None:
    assert TOOLS[name].CANNOT
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in TOOLS[name].CANNOT)
