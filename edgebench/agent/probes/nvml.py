"""What an NVIDIA graphics card says of itself: clocks, power, energy, heat and memory, read from the driver's library.

The library (NVML) comes with the driver and is called through ctypes: `nvidia-smi` answers the same calls, but is a new
process for each look. Declarations, structures and return codes are those of the nvml.h of CUDA 13; what an older
driver lacks is looked for under its older name. What a card does not tell is None, never an exception.

NVML counts cards by their place on the PCI bus, and neither that nor CUDA_VISIBLE_DEVICES is CUDA's order: where a
machine has several, name the one that is measured by its `uuid`. An open card keeps the driver's state alive as
persistence mode would, so the seconds that the first user of a sleeping card waits are not in what is measured then.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from typing import Any, Dict, List, Optional, Tuple, Union

from ..state import GpuState

LIBRARY = "libnvidia-ml.so.1"

# nvmlReturn_t
_SUCCESS = 0
_UNINITIALIZED = 1
_INVALID_ARGUMENT = 2
_NO_PERMISSION = 4
_NOT_FOUND = 6
_INSUFFICIENT_SIZE = 7
_INSUFFICIENT_POWER = 8
_DRIVER_NOT_LOADED = 9
_IRQ_ISSUE = 11
_FUNCTION_NOT_FOUND = 13
_GPU_IS_LOST = 15
_RESET_REQUIRED = 16
_LIB_RM_VERSION_MISMATCH = 18
_GPU_NOT_FOUND = 28

_IN_CONTAINER = "start a container with `--gpus all` and NVIDIA_DRIVER_CAPABILITIES=compute,utility"
_REFUSALS: Dict[int, str] = {
    _NO_PERMISSION: "this user may not open it (NVML: no permission): see `ls -l /dev/nvidia*`; " + _IN_CONTAINER,
    _INSUFFICIENT_POWER: "its power cables are not attached (NVML: insufficient power)",
    _DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded: `sudo modprobe nvidia`, or restart the machine if driver or"
    " kernel was updated; " + _IN_CONTAINER,
    _IRQ_ISSUE: "the kernel has trouble with its interrupts: see `sudo dmesg | grep -i nvrm`",
    _GPU_IS_LOST: "it fell off the bus: see `sudo dmesg | grep -i xid`, restart the machine",
    _RESET_REQUIRED: "it has to be reset before it can be used again: restart the machine",
    _LIB_RM_VERSION_MISMATCH: "the NVIDIA driver in the kernel is of another version than its library, as after an"
    " update: restart the machine; a container has to be made anew",
    _GPU_NOT_FOUND: "the NVIDIA driver found no card: see `lspci | grep -i nvidia`",
}
# What the driver itself is asked for is not "it".
_NO_PERMISSION_AT_ALL = "this user may not use the NVIDIA driver: see `ls -l /dev/nvidia*`; " + _IN_CONTAINER

_NAME_SIZE = 96
_CLOCK_SM, _CLOCK_MEM = 1, 2
_TEMPERATURE_GPU = 0
_ARCH_AMPERE = 7
_VALUE_NOT_AVAILABLE = 0xFFFFFFFFFFFFFFFF
_COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}

# nvmlClocksEventReason*, once called nvmlClocksThrottleReason*.
_REASONS = (
    (0x001, "idle"),
    (0x002, "application clocks"),
    (0x004, "power cap"),
    (0x008, "hardware slowdown"),
    (0x010, "sync boost"),
    (0x020, "thermal slowdown by software"),
    (0x040, "thermal slowdown by hardware"),
    (0x080, "power brake"),
    (0x100, "display clocks"),
    (0x200, "board limit"),
    (0x400, "reliability"),
)

# The inode of the first PID namespace: PROC_PID_INIT_INO of the kernel's proc_ns.h.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Temperature(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint), ("sensor", ctypes.c_uint), ("celsius", ctypes.c_int))


class _ProcessV1(ctypes.Structure):
    _fields_ = (("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong))


class _ProcessV2(ctypes.Structure):
    _fields_ = (*_ProcessV1._fields_, ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint))


class _ProcessEarly535(ctypes.Structure):
    _fields_ = (*_ProcessV2._fields_, ("used_protected", ctypes.c_ulonglong))


_PROCESSES = "nvmlDeviceGetComputeRunningProcesses"


class _Library:
    """The functions of NVML, by name; one that this version lacks answers as NVML itself would."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def call(self, name: str, *arguments: Any) -> int:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            return _FUNCTION_NOT_FOUND
        return int(function(*arguments))


class Gpu:
    """An open card. `name`, `driver_version` and `uuid` are empty strings where the driver does not tell them."""

    def __init__(self, library: _Library, handle: ctypes.c_void_p, root: str) -> None:
        self._library = library
        self._handle = handle
        self._root = root
        self._open = True
        self.name = self._text("nvmlDeviceGetName", handle)
        self.driver_version = self._text("nvmlSystemGetDriverVersion")
        self.uuid = self._text("nvmlDeviceGetUUID", handle)
        # A property of the card that does not change, so that a state costs two calls less.
        self._max_clocks_mhz = self._clocks("nvmlDeviceGetMaxClockInfo")

    def close(self) -> None:
        """Let go of the driver; what is asked for after that is None."""
        if self._open:
            self._open = False
            self._library.call("nvmlShutdown")

    def read(self) -> GpuState:
        """The state now, in some fifteen calls of the driver."""
        at_ns = time.perf_counter_ns()
        sm_clock_mhz, memory_clock_mhz = self.clocks_mhz()
        max_sm_clock_mhz, max_memory_clock_mhz = self.max_clocks_mhz()
        busy_percent, memory_busy_percent = self.utilization_percent()
        return GpuState(
            at_ns=at_ns,
            sm_clock_mhz=sm_clock_mhz,
            memory_clock_mhz=memory_clock_mhz,
            max_sm_clock_mhz=max_sm_clock_mhz,
            max_memory_clock_mhz=max_memory_clock_mhz,
            temperature_mc=self.temperature_mc(),
            power_mw=self.power_mw(),
            power_limit_mw=self.power_limit_mw(),
            energy_mj=self.total_energy_mj(),
            busy_percent=busy_percent,
            memory_busy_percent=memory_busy_percent,
            used_bytes=self.used_bytes(),
            throttle_reasons=self.throttle_reasons(),
            persistence_mode=self.persistence_mode(),
            compute_mode=self.compute_mode(),
            mig_mode=self.mig_mode(),
        )

    def total_energy_mj(self) -> Optional[int]:
        """Millijoules since the driver was loaded; None before Volta, and mostly in virtual machines."""
        return self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())

    def power_mw(self) -> Optional[int]:
        """The whole board's; see `GpuState.power_mw` for what it is an average of."""
        return self._number("nvmlDeviceGetPowerUsage")

    def averages_power(self) -> bool:
        """Whether `power_mw` is an average over a second: from Ampere on, says nvml.h.

        The A100 is an exception that is not told apart here. A driver that cannot say drives older cards only.
        """
        architecture = self._number("nvmlDeviceGetArchitecture")
        return architecture is not None and architecture >= _ARCH_AMPERE

    def power_limit_mw(self) -> Optional[int]:
        """The lowest of the limits that hold now."""
        limit_mw = self._number("nvmlDeviceGetEnforcedPowerLimit")
        return self._number("nvmlDeviceGetPowerManagementLimit") if limit_mw is None else limit_mw

    def clocks_mhz(self) -> Tuple[Optional[int], Optional[int]]:
        """Of the streaming multiprocessors and of the memory, now."""
        return self._clocks("nvmlDeviceGetClockInfo")

    def max_clocks_mhz(self) -> Tuple[Optional[int], Optional[int]]:
        """The highest that the card has, whether or not it may use them."""
        return self._max_clocks_mhz

    def temperature_mc(self) -> Optional[int]:
        """Milli-degrees Celsius of the chip, to a whole degree."""
        size = ctypes.sizeof(_Temperature)
        temperature = _Temperature(version=size | 1 << 24, sensor=_TEMPERATURE_GPU)
        if self._ask("nvmlDeviceGetTemperatureV", ctypes.byref(temperature)) == _SUCCESS:
            return int(temperature.celsius) * 1000
        celsius = ctypes.c_uint()
        code = self._ask("nvmlDeviceGetTemperature", ctypes.c_uint(_TEMPERATURE_GPU), ctypes.byref(celsius))
        return celsius.value * 1000 if code == _SUCCESS else None

    def throttle_reasons(self) -> Optional[Tuple[str, ...]]:
        """Why the clocks are not higher, in words; see `GpuState.throttle_reasons`."""
        mask = self._number("nvmlDeviceGetCurrentClocksEventReasons", ctypes.c_ulonglong())
        if mask is None:
            mask = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong())
        return None if mask is None else throttle_words(mask)

    def utilization_percent(self) -> Tuple[Optional[int], Optional[int]]:
        """Of kernels and of memory; None on a card that is cut into instances."""
        utilization = _Utilization()
        if self._ask("nvmlDeviceGetUtilizationRates", ctypes.byref(utilization)) != _SUCCESS:
            return None, None
        return int(utilization.gpu), int(utilization.memory)

    def used_bytes(self) -> Optional[int]:
        """Of the whole card, by everyone who uses it. None where the card has no memory of its own."""
        memory = _Memory()
        code = self._ask("nvmlDeviceGetMemoryInfo", ctypes.byref(memory))
        return int(memory.used) if code == _SUCCESS else None

    def persistence_mode(self) -> Optional[bool]:
        """Whether the driver keeps the card ready while nobody uses it."""
        return _flag(self._number("nvmlDeviceGetPersistenceMode"))

    def compute_mode(self) -> Optional[str]:
        """Who may use the card; see `GpuState.compute_mode`."""
        mode = self._number("nvmlDeviceGetComputeMode")
        return None if mode is None else _COMPUTE_MODES.get(mode, "mode %d" % mode)

    def mig_mode(self) -> Optional[bool]:
        """Whether the card is cut into instances; None on one that cannot be."""
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        code = self._ask("nvmlDeviceGetMigMode", ctypes.byref(current), ctypes.byref(pending))
        return _flag(current.value) if code == _SUCCESS else None

    def process_memory(self, pid: int) -> Optional[int]:
        """Bytes of the card that process `pid` has, its CUDA context included; None as `why_no_process_memory` says.

        The fallback is the rise of `used_bytes` on a card that nobody else uses.
        """
        found = self._process_memory(pid)
        return found if isinstance(found, int) else None

    def why_no_process_memory(self, pid: int) -> str:
        """Why `process_memory` gave None; empty if it would not."""
        found = self._process_memory(pid)
        return found if isinstance(found, str) else ""

    def _process_memory(self, pid: int) -> Union[int, str]:
        processes = self._processes()
        if isinstance(processes, str):
            return processes
        # Older drivers list the host's numbers in a container too, and one of those may equal one of ours. Newer ones
        # translate, but may then say 0 bytes: github.com/NVIDIA/open-gpu-kernel-modules/pull/614.
        foreign = self._in_pid_namespace() and any(not self._exists(listed) for listed, _ in processes)
        used = [size for listed, size in processes if listed == pid]
        if foreign:
            return "in this container the driver tells the host's process ids: start it with --pid=host"
        if not used:
            return "the driver lists no CUDA context of process %d" % pid
        # A process has an entry in each instance of a card that is cut into several.
        if _VALUE_NOT_AVAILABLE in used or sum(used) == 0:
            return "the driver lists process %d but not its memory, as in containers and in WSL" % pid
        return sum(used)

    def _processes(self) -> Union[List[Tuple[int, int]], str]:
        """Process id and bytes of each CUDA context, or why they are not told."""
        code = _FUNCTION_NOT_FOUND
        for name, structure in self._process_lists():
            room = 64
            for _ in range(3):
                count, entries = ctypes.c_uint(room), (structure * room)()
                code = self._ask(name, ctypes.byref(count), entries)
                if code != _INSUFFICIENT_SIZE:
                    break
                # More may come until it is asked again.
                room = 2 * max(room, count.value)
            if code == _SUCCESS:
                # 0 stands for a process outside of this PID namespace.
                return [(int(entry.pid), int(entry.used)) for entry in entries[: count.value] if entry.pid]
            if code != _FUNCTION_NOT_FOUND:
                break
        if code == _NO_PERMISSION:
            return "the driver tells this user nothing of processes, as on a card that is cut into instances (MIG)"
        return "the driver does not tell the memory of processes (NVML: %d)" % code

    def _process_lists(self) -> List[Tuple[str, Any]]:
        older = [(_PROCESSES + "_v2", _ProcessV2), (_PROCESSES, _ProcessV1)]
        # For some releases the third function wrote longer entries, without a fourth name for it:
        # github.com/XuehaiPan/nvitop/pull/89.
        version = re.match(r"(\d+)\.(\d+)", self.driver_version)
        early = version is not None and (535, 43) <= (int(version.group(1)), int(version.group(2))) < (535, 98)
        return [(_PROCESSES + "_v3", _ProcessEarly535 if early else _ProcessV2), *older]

    def _in_pid_namespace(self) -> bool:
        """Whether processes may have other numbers here than on the host."""
        try:
            return os.readlink(os.path.join(self._root, "proc/self/ns/pid")) != _FIRST_PID_NAMESPACE
        except OSError:
            return True

    def _exists(self, pid: int) -> bool:
        return os.path.exists(os.path.join(self._root, "proc/%d" % pid))

    def _clocks(self, name: str) -> Tuple[Optional[int], Optional[int]]:
        found = []
        for kind in (_CLOCK_SM, _CLOCK_MEM):
            clock = ctypes.c_uint()
            code = self._ask(name, ctypes.c_uint(kind), ctypes.byref(clock))
            found.append(clock.value if code == _SUCCESS else None)
        return found[0], found[1]

    def _number(self, name: str, value: Any = None) -> Optional[int]:
        value = ctypes.c_uint() if value is None else value
        return int(value.value) if self._ask(name, ctypes.byref(value)) == _SUCCESS else None

    def _text(self, name: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(_NAME_SIZE)
        code = self._library.call(name, *arguments, buffer, ctypes.c_uint(_NAME_SIZE))
        return buffer.value.decode("utf-8", "replace") if code == _SUCCESS else ""

    def _ask(self, name: str, *arguments: Any) -> int:
        # Another user in this process (torch, onnxruntime) may have NVML open still, and it would answer.
        return self._library.call(name, self._handle, *arguments) if self._open else _UNINITIALIZED


def open_gpu(index: int = 0, *, uuid: Optional[str] = None, library: str = LIBRARY, root: str = "/") -> Optional[Gpu]:
    """Card number `index` of the driver's order, or the one with this `uuid` ("GPU-..."); None as `why_not` says.

    `root` is where /proc is found.
    """
    found = _open(index, uuid, library, root)
    return found if isinstance(found, Gpu) else None


def why_not(index: int = 0, *, uuid: Optional[str] = None, library: str = LIBRARY) -> str:
    """Why `open_gpu` gave None, and what to do; empty if it would not."""
    found = _open(index, uuid, library, "/")
    if isinstance(found, str):
        return found
    found.close()
    return ""


def throttle_words(mask: int) -> Tuple[str, ...]:
    """The bits of nvmlClocksEventReasons in words; one without a name keeps its number."""
    words = [word for bit, word in _REASONS if mask & bit]
    unknown = mask & ~sum(bit for bit, _ in _REASONS)
    return tuple(words + ["unknown reason 0x%x" % unknown] * bool(unknown))


def _open(index: int, uuid: Optional[str], path: str, root: str) -> Union[Gpu, str]:
    try:
        library = _Library(path)
    except OSError as error:
        return "no NVIDIA driver (%s): install it; %s" % (error, _IN_CONTAINER)
    code = library.call("nvmlInit_v2")
    if code != _SUCCESS:
        return _NO_PERMISSION_AT_ALL if code == _NO_PERMISSION else _refusal(code)
    handle = ctypes.c_void_p()
    if uuid is None:
        code = library.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        asked_for = "card %d" % index
    else:
        code = library.call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(uuid.encode()), ctypes.byref(handle))
        asked_for = "card " + uuid
    if code == _SUCCESS:
        return Gpu(library, handle, root)
    count = ctypes.c_uint()
    counted = library.call("nvmlDeviceGetCount_v2", ctypes.byref(count)) == _SUCCESS
    library.call("nvmlShutdown")
    if counted and count.value == 0:
        return _refusal(_GPU_NOT_FOUND)
    if counted and code in (_INVALID_ARGUMENT, _NOT_FOUND):
        return "there is no %s, the driver has %d: see `nvidia-smi -L`" % (asked_for, count.value)
    return "%s: %s" % (asked_for, _refusal(code))


def _refusal(code: int) -> str:
    return _REFUSALS.get(code, "the NVIDIA driver does not answer (NVML: %d): see `nvidia-smi`" % code)


def _flag(value: Optional[int]) -> Optional[bool]:
    return None if value is None else value == 1
