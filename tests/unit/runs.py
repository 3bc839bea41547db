"""Runs with samples that are known, for tests of what is computed from them."""

from __future__ import annotations

from edgebench.agent.wire import Measurement, Memory, Turn
from edgebench.types import Accuracy, ArtifactRef, BenchSettings, Cell, Device, Run, Size


def measurement(*samples_ns: int, number: int = 0, **changes: object) -> Measurement:
    """One process's, in one turn."""
    values: dict[str, object] = {
        "cold_ns": 40_000_000,
        "load_ns": 20_000_000,
        "first_ns": 3_000_000,
        "turns": (Turn(0, 0, samples_ns),),
        "memory": Memory(100_000_000, 150_000_000, 160_000_000, "VmHWM"),
        "round": number,
        **changes,
    }
    return Measurement(2, "ok", **values)  # type: ignore[arg-type]


def accuracy(correct: str) -> Accuracy:
    top1 = 100 * correct.count("1") / len(correct)
    return Accuracy("digits:test", "ab", len(correct), top1, None, 0.5, correct, tuple(map(int, correct)))


def cell(name: str, *processes: tuple[int, ...], correct: str | None = None, **changes: object) -> Cell:
    values: dict[str, object] = {
        "artifact": ArtifactRef(name, name, "fp32", "ff"),
        "device": "local",
        "runtime": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "batch_size": 1,
        "scenario": "single-stream",
        "status": "ok",
        "size": Size(44_800_000, 41_000_000),
        "accuracy": None if correct is None else accuracy(correct),
        "measurements": tuple(measurement(*samples, number=number) for number, samples in enumerate(processes)),
        **changes,
    }
    return Cell(**values)  # type: ignore[arg-type]


def run(*cells: Cell, identifier: str = "20261120-120000-abcd", started_at: str = "2026-11-20T12:00:00+00:00") -> Run:
    device = Device("local", "local", {"machine": "x86_64", "usable_cpus": 2})
    command = ("edgebench", "bench", "[/data].eb")
    return Run(
        2, identifier, started_at, "0.1.0", command, BenchSettings(), "digits:test", "ab", "onnx", (device,), cells
    )
