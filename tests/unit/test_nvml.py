"""The NVML reader against a stand-in library: C, compiled here, with the declarations of NVIDIA's nvml.h."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.agent.probes.gpu_energy import NvmlEnergyMeter, open_meter
from edgebench.agent.probes.nvml import Gpu, open_gpu, throttle_words, why_not

SECOND_NS = 1_000_000_000
GIB = 1 << 30
UUID = "GPU-8a56a4bc-e184-a047-2620-be19fdf913d5"
NOT_AVAILABLE = 0xFFFFFFFFFFFFFFFF

# nvmlReturn_t
NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST, VERSION_MISMATCH = 3, 4, 9, 15, 18

# Answers are the exported variables; -D leaves out what older libraries lack. Signatures, structures and enumerations
# as in the nvml.h of CUDA 13.5; EARLY_535 is that of the drivers from 535.43 up to 535.98.
SOURCE = r"""
#include <string.h>
typedef struct nvmlDevice_st { int number; } *nvmlDevice_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int version; int sensorType; int temperature; } nvmlTemperature_v1_t;
typedef struct { unsigned int pid; unsigned long long usedGpuMemory; } nvmlProcessInfo_v1_t;
typedef struct {
    unsigned int pid; unsigned long long usedGpuMemory; unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_v2_t;
typedef struct {
    unsigned int pid; unsigned long long usedGpuMemory; unsigned int gpuInstanceId, computeInstanceId;
    unsigned long long usedGpuCcProtectedMemory;
} early_535_t;

int init_code, device_code, users;
unsigned int device_count = 1;
int energy_code, power_code, mig_code, processes_code, memory_code, others_code;
unsigned long long energy_mj = 1000, throttle_mask;
unsigned int power_mw = 70000, architecture = 9, compute_mode, mig_mode, persistence_mode = 1;
unsigned int process_count, pids[100];
unsigned long long used_bytes[100];
char driver_version[80] = "570.124.06";

static struct nvmlDevice_st card = { 0 };

#define ASKED(code) \
    do { if (users < 1) return 1; if (device != &card) return 2; if (code) return code; } while (0)

int nvmlInit_v2(void) { if (init_code) return init_code; users++; return 0; }
int nvmlShutdown(void) { if (users < 1) return 1; users--; return 0; }

static int text(char *to, unsigned int length, const char *from) {
    if (users < 1) return 1;
    if (strlen(from) + 1 > length) return 7;
    strcpy(to, from);
    return 0;
}

int nvmlSystemGetDriverVersion(char *version, unsigned int length) { return text(version, length, driver_version); }
int nvmlDeviceGetCount_v2(unsigned int *count) { if (users < 1) return 1; *count = device_count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (users < 1) return 1;
    if (index >= device_count) return 2;
    if (device_code) return device_code;
    *device = &card;
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    if (users < 1) return 1;
    if (strcmp(uuid, "GPU-8a56a4bc-e184-a047-2620-be19fdf913d5")) return 6;
    *device = &card;
    return 0;
}
int nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    ASKED(0);
    return text(name, length, "NVIDIA H100 80GB HBM3");
}
int nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    ASKED(0);
    return text(uuid, length, "GPU-8a56a4bc-e184-a047-2620-be19fdf913d5");
}
int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy) {
    ASKED(energy_code);
    *energy = energy_mj;
    return 0;
}
int nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power) {
    ASKED(power_code);
    *power = power_mw;
    return 0;
}
int nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *limit) {
    ASKED(others_code);
    *limit = 700000;
    return 0;
}
int nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned int *arch) { ASKED(0); *arch = architecture; return 0; }
int nvmlDeviceGetClockInfo(nvmlDevice_t device, int type, unsigned int *clock) {
    ASKED(others_code);
    if (type != 1 && type != 2) return 2;
    *clock = type == 1 ? 1410 : 2619;
    return 0;
}
int nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, int type, unsigned int *clock) {
    ASKED(others_code);
    if (type != 1 && type != 2) return 2;
    *clock = type == 1 ? 1980 : 2620;
    return 0;
}
#ifndef OLD_NAMES
int nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *temperature) {
    ASKED(others_code);
    if (temperature->version != (sizeof *temperature | 1 << 24)) return 25;
    if (temperature->sensorType != 0) return 2;
    temperature->temperature = 41;
    return 0;
}
int nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
    ASKED(others_code);
    *reasons = throttle_mask;
    return 0;
}
#else
int nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned int *temperature) {
    ASKED(others_code);
    if (sensor != 0) return 2;
    *temperature = 41;
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    ASKED(others_code);
    *reasons = throttle_mask;
    return 0;
}
#endif
int nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    ASKED(others_code);
    utilization->gpu = 97;
    utilization->memory = 34;
    return 0;
}
int nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    ASKED(memory_code);
    memory->total = 80ULL << 30;
    memory->free = 77ULL << 30;
    memory->used = 3ULL << 30;
    return 0;
}
int nvmlDeviceGetPersistenceMode(nvmlDevice_t device, int *mode) {
    ASKED(others_code);
    *mode = persistence_mode;
    return 0;
}
int nvmlDeviceGetComputeMode(nvmlDevice_t device, int *mode) {
    ASKED(others_code);
    *mode = compute_mode;
    return 0;
}
int nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    ASKED(mig_code);
    *current = mig_mode;
    *pending = 1;
    return 0;
}

#define PROCESSES(name, type) \
    int name(nvmlDevice_t device, unsigned int *count, type *infos) { \
        unsigned int room = *count, i; \
        ASKED(processes_code); \
        *count = process_count; \
        if (process_count > room) return 7; \
        for (i = 0; i < process_count; i++) { \
            memset(&infos[i], 0xff, sizeof infos[i]); \
            infos[i].pid = pids[i]; \
            infos[i].usedGpuMemory = used_bytes[i]; \
        } \
        return 0; \
    }
#ifdef EARLY_535
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, early_535_t)
#elif !defined BEFORE_R510
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_v2_t)
#endif
#ifndef BEFORE_R450
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
#endif
PROCESSES(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t)
"""


class _Driver:
    """A stand-in library on a machine of its own: its card's answers, its /proc and a clock, all set by hand."""

    def __init__(self, library: Path, root: Path) -> None:
        self.library = str(library)
        self.root = root
        self.now_ns = 0
        self._symbols = ctypes.CDLL(self.library)
        self.namespace("pid:[4026531836]")

    def set(self, **answers: int) -> None:
        for name, value in answers.items():
            wide = name in {"energy_mj", "throttle_mask"}
            (ctypes.c_ulonglong if wide else ctypes.c_uint).in_dll(self._symbols, name).value = value

    def version(self, driver: str) -> None:
        (ctypes.c_char * 80).in_dll(self._symbols, "driver_version").value = driver.encode()

    def processes(self, *listed: tuple[int, int]) -> None:
        self.set(process_count=len(listed))
        for index, (pid, used) in enumerate(listed):
            (ctypes.c_uint * 100).in_dll(self._symbols, "pids")[index] = pid
            (ctypes.c_ulonglong * 100).in_dll(self._symbols, "used_bytes")[index] = used

    def namespace(self, link: str, *running: int) -> None:
        path = self.root / "proc/self/ns/pid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(link)
        for pid in running:
            (self.root / f"proc/{pid}").mkdir()

    @property
    def users(self) -> int:
        return ctypes.c_int.in_dll(self._symbols, "users").value

    def gpu(self) -> Gpu:
        gpu = open_gpu(library=self.library, root=str(self.root))
        assert gpu is not None
        return gpu

    def meter(self) -> NvmlEnergyMeter:
        meter = open_meter(self.gpu(), clock=lambda: self.now_ns)
        assert meter is not None
        return meter


Install = Callable[..., _Driver]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Installs a driver as it was before the named changes."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt install gcc")

    def build(*changes: str) -> _Driver:
        library = tmp_path / "libnvidia-ml.so.1"
        options = ["-Wall", "-Werror", "-shared", "-fPIC", *[f"-D{change}" for change in changes]]
        subprocess.run([compiler, *options, "-x", "c", "-o", library, "-"], input=SOURCE, text=True, check=True)
        return _Driver(library, tmp_path / "root")

    return build


@pytest.fixture
def driver(install: Install) -> _Driver:
    return install()


def test_a_card_says_who_it_is(driver: _Driver) -> None:
    gpu = driver.gpu()

    assert (gpu.name, gpu.driver_version, gpu.uuid) == ("NVIDIA H100 80GB HBM3", "570.124.06", UUID)


def test_a_card_is_found_by_its_uuid(driver: _Driver) -> None:
    gpu = open_gpu(uuid=UUID, library=driver.library)

    assert gpu is not None
    assert gpu.uuid == UUID


def test_a_state_is_all_that_the_card_tells(driver: _Driver) -> None:
    driver.set(throttle_mask=0x24)

    state = driver.gpu().read()

    assert (state.sm_clock_mhz, state.memory_clock_mhz) == (1410, 2619)
    assert (state.max_sm_clock_mhz, state.max_memory_clock_mhz) == (1980, 2620)
    assert (state.temperature_mc, state.power_mw, state.power_limit_mw) == (41_000, 70_000, 700_000)
    assert (state.energy_mj, state.used_bytes) == (1000, 3 * GIB)
    assert (state.busy_percent, state.memory_busy_percent) == (97, 34)
    assert state.throttle_reasons == ("power cap", "thermal slowdown by software")
    assert (state.persistence_mode, state.compute_mode, state.mig_mode) == (True, "default", False)


def test_what_a_card_does_not_support_is_not_told(driver: _Driver) -> None:
    codes = ("energy_code", "power_code", "mig_code", "memory_code", "others_code")
    driver.set(**dict.fromkeys(codes, NOT_SUPPORTED))

    state = driver.gpu().read()

    assert {name: value for name, value in vars(state).items() if value is not None} == {"at_ns": state.at_ns}


def test_an_older_driver_answers_under_the_older_names(install: Install) -> None:
    driver = install("OLD_NAMES", "BEFORE_R510")
    driver.set(throttle_mask=1)

    state = driver.gpu().read()

    assert (state.temperature_mc, state.throttle_reasons) == (41_000, ("idle",))


def test_modes_are_said_in_words(driver: _Driver) -> None:
    driver.set(compute_mode=3, mig_mode=1, persistence_mode=0)

    state = driver.gpu().read()

    assert (state.compute_mode, state.mig_mode, state.persistence_mode) == ("exclusive process", True, False)


def test_nothing_that_holds_the_clocks_down_is_not_the_same_as_not_told(driver: _Driver) -> None:
    driver.set(throttle_mask=0)

    assert driver.gpu().throttle_reasons() == ()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (0x001, ("idle",)),
        (0x048, ("hardware slowdown", "thermal slowdown by hardware")),
        (0x080, ("power brake",)),
        (0x602, ("application clocks", "board limit", "reliability")),
        (0x8000_0004, ("power cap", "unknown reason 0x80000000")),
    ],
)
def test_bits_of_throttling_are_words(mask: int, words: tuple[str, ...]) -> None:
    assert throttle_words(mask) == words


def test_a_closed_card_lets_go_of_the_driver_once_and_tells_nothing(driver: _Driver) -> None:
    gpu, other = driver.gpu(), driver.gpu()
    assert driver.users == 2

    gpu.close()
    gpu.close()

    assert driver.users == 1
    assert gpu.power_mw() is None
    assert other.power_mw() == 70_000


# Why there is none


def test_no_library_says_what_to_install(tmp_path: Path) -> None:
    path = str(tmp_path / "libnvidia-ml.so.1")

    assert open_gpu(library=path) is None
    assert why_not(library=path).startswith("no NVIDIA driver (")
    assert "install it; start a container with `--gpus all`" in why_not(library=path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded: `sudo modprobe nvidia`"),
        (VERSION_MISMATCH, "of another version than its library, as after an update: restart the machine"),
        (NO_PERMISSION, "this user may not use the NVIDIA driver: see `ls -l /dev/nvidia*`"),
        (999, "the NVIDIA driver does not answer (NVML: 999): see `nvidia-smi`"),
    ],
)
def test_a_driver_that_refuses_says_why(driver: _Driver, code: int, words: str) -> None:
    driver.set(init_code=code)

    assert open_gpu(library=driver.library) is None
    assert words in why_not(library=driver.library)


def test_a_driver_without_a_card_says_so(driver: _Driver) -> None:
    driver.set(device_count=0)

    assert open_gpu(library=driver.library) is None
    assert why_not(library=driver.library) == "the NVIDIA driver found no card: see `lspci | grep -i nvidia`"


def test_a_number_beyond_the_last_card_is_answered_with_how_many_there_are(driver: _Driver) -> None:
    assert open_gpu(3, library=driver.library) is None
    assert why_not(3, library=driver.library) == "there is no card 3, the driver has 1: see `nvidia-smi -L`"


def test_a_uuid_that_no_card_has_is_answered_with_how_many_there_are(driver: _Driver) -> None:
    assert (
        why_not(uuid="GPU-0", library=driver.library) == "there is no card GPU-0, the driver has 1: see `nvidia-smi -L`"
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [(NO_PERMISSION, "card 0: this user may not open it"), (GPU_IS_LOST, "card 0: it fell off the bus")],
)
def test_a_card_that_cannot_be_opened_says_why_and_lets_go_of_the_driver(
    driver: _Driver, code: int, words: str
) -> None:
    driver.set(device_code=code)

    assert open_gpu(library=driver.library) is None
    assert why_not(library=driver.library).startswith(words)
    assert driver.users == 0


def test_why_not_of_a_card_that_opens_is_empty_and_leaves_it_closed(driver: _Driver) -> None:
    assert why_not(library=driver.library) == ""
    assert driver.users == 0


# Memory of a process


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ((), "570.124.06"),
        (("EARLY_535",), "535.54.03"),
        (("BEFORE_R510",), "470.256.02"),
        (("BEFORE_R510", "BEFORE_R450"), "390.157"),
    ],
)
def test_the_memory_of_a_process_is_read_in_each_layout(
    install: Install, changes: tuple[str, ...], version: str
) -> None:
    driver = install(*changes)
    driver.version(version)
    driver.processes((101, 5), (4242, 7 * GIB), (103, 9))

    gpu = driver.gpu()

    assert gpu.process_memory(4242) == 7 * GIB
    assert gpu.process_memory(103) == 9
    assert gpu.why_no_process_memory(103) == ""


def test_more_processes_than_there_is_room_for_at_first_are_all_read(driver: _Driver) -> None:
    driver.processes(*[(pid, 1000 + pid) for pid in range(1, 101)])

    assert driver.gpu().process_memory(100) == 1100


def test_a_process_on_two_instances_has_the_memory_of_both(driver: _Driver) -> None:
    driver.processes((7, 100), (7, 20))

    assert driver.gpu().process_memory(7) == 120


def test_a_process_without_a_context_is_not_measured_as_zero(driver: _Driver) -> None:
    gpu = driver.gpu()

    assert gpu.process_memory(7) is None
    assert gpu.why_no_process_memory(7) == "the driver lists no CUDA context of process 7"


@pytest.mark.parametrize("used", [NOT_AVAILABLE, 0])
def test_memory_that_is_not_available_is_not_a_number(driver: _Driver, used: int) -> None:
    driver.processes((7, used))
    gpu = driver.gpu()

    assert gpu.process_memory(7) is None
    assert gpu.why_no_process_memory(7).startswith("the driver lists process 7 but not its memory")
    assert gpu.used_bytes() == 3 * GIB


def test_in_a_container_the_hosts_process_of_the_same_number_is_not_taken(driver: _Driver) -> None:
    driver.namespace("pid:[4026532501]", 1, 42)
    driver.processes((42, 5 * GIB), (31337, 2 * GIB))
    gpu = driver.gpu()

    assert gpu.process_memory(42) is None
    assert gpu.why_no_process_memory(42).endswith("tells the host's process ids: start it with --pid=host")


def test_in_a_container_a_driver_that_translates_process_ids_is_believed(driver: _Driver) -> None:
    driver.namespace("pid:[4026532501]", 1, 42)
    driver.processes((0, 2 * GIB), (42, 5 * GIB))

    assert driver.gpu().process_memory(42) == 5 * GIB


def test_on_the_host_the_processes_of_containers_do_no_harm(driver: _Driver) -> None:
    driver.processes((42, 5 * GIB), (31337, 2 * GIB))

    assert driver.gpu().process_memory(42) == 5 * GIB


@pytest.mark.parametrize(("code", "words"), [(NO_PERMISSION, "(MIG)"), (NOT_SUPPORTED, "(NVML: 3)")])
def test_a_list_of_processes_that_is_refused_says_why(driver: _Driver, code: int, words: str) -> None:
    driver.set(processes_code=code)
    gpu = driver.gpu()

    assert gpu.process_memory(7) is None
    assert gpu.why_no_process_memory(7).endswith(words)


# Energy


def test_the_counter_of_energy_is_metered(driver: _Driver) -> None:
    meter = driver.meter()

    meter.start()
    driver.set(energy_mj=301_000)
    driver.now_ns = SECOND_NS
    meter.sample()
    driver.set(energy_mj=(1 << 32) + 1000)
    driver.now_ns = 2 * SECOND_NS

    # From 1 J, and beyond 32 bits: 2^32 mJ.
    assert meter.stop() == (1 << 32) * 1000
    assert meter.method == "energy counter of the card NVIDIA H100 80GB HBM3 (NVML)"


def test_a_window_of_less_than_ten_renewals_of_the_counter_has_no_figure(driver: _Driver) -> None:
    meter = driver.meter()

    meter.start()
    driver.set(energy_mj=301_000)
    driver.now_ns = SECOND_NS - 1

    assert meter.stop() is None


def test_a_counter_that_stood_still_is_no_figure(driver: _Driver) -> None:
    meter = driver.meter()

    meter.start()
    driver.now_ns = 2 * SECOND_NS

    assert meter.stop() is None


def test_a_driver_that_was_loaded_anew_loses_one_figure(driver: _Driver) -> None:
    meter = driver.meter()

    meter.start()
    driver.set(energy_mj=10)
    meter.sample()
    driver.set(energy_mj=500_000)
    driver.now_ns = 2 * SECOND_NS
    assert meter.stop() is None

    meter.start()
    driver.set(energy_mj=500_100)
    driver.now_ns = 4 * SECOND_NS
    assert meter.stop() == 100_000


def test_a_card_lost_meanwhile_loses_the_figure(driver: _Driver) -> None:
    meter = driver.meter()

    meter.start()
    driver.set(energy_code=GPU_IS_LOST)
    meter.sample()
    driver.set(energy_code=0, energy_mj=301_000)
    driver.now_ns = 2 * SECOND_NS

    assert meter.stop() is None


def test_without_a_counter_power_is_sampled(driver: _Driver) -> None:
    pascal = 4
    driver.set(energy_code=NOT_SUPPORTED, architecture=pascal)
    meter = driver.meter()

    meter.start()
    driver.now_ns = SECOND_NS
    meter.sample()
    driver.set(power_mw=130_000)
    driver.now_ns = 3 * SECOND_NS

    # 70 W for 1 s, then from 70 W to 130 W in 2 s: 70 J + 100 W x 2 s.
    assert meter.stop() == 270_000_000
    assert meter.method == "power of the card NVIDIA H100 80GB HBM3 (NVML), sampled"


def test_power_that_is_an_average_needs_ten_seconds_and_says_so(driver: _Driver) -> None:
    driver.set(energy_code=NOT_SUPPORTED)
    meter = driver.meter()

    meter.start()
    driver.now_ns = 10 * SECOND_NS - 1
    assert meter.stop() is None

    meter.start()
    driver.now_ns += 10 * SECOND_NS
    assert meter.stop() == 700_000_000
    assert meter.method.endswith("sampled, each an average over 1 s")


def test_a_card_that_tells_neither_energy_nor_power_has_no_meter(driver: _Driver) -> None:
    driver.set(energy_code=NOT_SUPPORTED, power_code=NOT_SUPPORTED)

    assert open_meter(driver.gpu()) is None


def test_this_machines_card_is_read_or_says_why_not() -> None:
    gpu = open_gpu()

    if gpu is None:
        assert why_not()
    else:
        state = gpu.read()
        gpu.close()
        assert gpu.name
        assert state.temperature_mc is None or 0 < state.temperature_mc < 150_000
