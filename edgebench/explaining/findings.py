"""An explanation in sentences, each with what to type: what costs time first, then what costs accuracy.

A finding says what was read or measured, in this file, on this device, on these inputs. The thresholds decide what is
worth a sentence, and are no judgement of a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgebench.explaining import executed
from edgebench.explaining.explanation import Explanation, Finding
from edgebench.explaining.layers import Layer
from edgebench.explaining.values import Observed, sqnr_of

__all__ = ["find"]

# Shares of the operators' time.
_NOTABLE_TIME = 0.02
_SLOWER, _FASTER = 1.05, 0.95
_CLIPPED = 0.001
_UNUSED = 0.25
# How many times the noise must grow when a tensor is rounded to be the rounding's.
_BY_ROUNDING = 2.0
_FAITHFUL_DB = 30.0
_POOR_DB = 20.0
_WEIGHT_DB = 25.0
_SMALL_CHANNEL = 100.0
_SATURATION_DB = 3.0
_NAMED = 3
_FEW_INPUTS = 8


def find(explained: Explanation) -> tuple[Finding, ...]:
    """All findings."""
    return (*_speed(explained), *_instructions(explained), *_unfused(explained), *_slow(explained), *_accuracy(explained))


def _speed(explained: Explanation) -> Iterator[Finding]:
    ratio = explained.ratio
    if ratio is None:
        return
    exact = f"edgebench compare {explained.parent} {explained.path}"
    took = f"{explained.name} takes {ratio:.2f} of the float model's time"
    if ratio > _SLOWER:
        yield Finding(
            "slower", f"{took}: int8 makes it slower here", f"ship the float model on this device; how sure: {exact}"
        )
    elif ratio > _FASTER:
        yield Finding("no-faster", f"{took}: int8 gains nothing here but size", f"how sure that is: {exact}")
    else:
        yield Finding("faster", f"{took}; how sure that is: {exact}")


def _instructions(explained: Explanation) -> Iterator[Finding]:
    cpu, here, there = explained.cpu, explained.sqnr_db, explained.device_sqnr_db
    if explained.may_saturate:
        yield Finding(
            "may-saturate",
            f"{cpu.text}, and the weights use all 8 bits: sums of two products can be cut off",
            "give up a bit of the weights: --reduce-range, or export for this CPU: --target x86-avx2",
        )
    elif cpu.known and not cpu.dot_products:
        yield Finding("no-instructions", cpu.text)
    if here is not None and there is not None and here - there > _SATURATION_DB:
        yield Finding(
            "device-differs",
            f"{explained.profile.device} answers with {there:.1f} dB, the file's own arithmetic with {here:.1f} dB: its "
            "kernels compute something else",
            "--reduce-range" if cpu.saturates else f"edgebench devices doctor {explained.profile.device}",
        )


def _unfused(explained: Explanation) -> Iterator[Finding]:
    whole = explained.profile.operators_ns or 1
    for group in explained.unfused:
        cost = group.ns + group.conversion_ns
        if cost / whole < _NOTABLE_TIME or group.reason == executed.BOUNDARY:
            continue
        text = (
            f"{len(group.names)} {group.kind} in float, {cost / 1e6:.3g} ms with {group.conversions} conversions "
            f"({cost / whole:.0%} of the operators' time): {group.detail}"
        )
        yield Finding(group.reason, text, _remedies(explained).get(group.reason, "").format(kind=group.kind) or None)


def _remedies(explained: Explanation) -> dict[str, str]:
    exchange = "exchange {kind} in the network and train on"
    again = f"edgebench export {explained.parent or 'MODEL'} --calib DATA quantizes it too"
    return {
        executed.NO_KERNEL: f"{exchange}, or leave what is around it in float: --float NAMES",
        executed.ABSORBED: f"{again}, without a pair of its own before it",
        executed.WIDE: "spend 16 bits on fewer operators (--max-drop POINTS finds them), or none: --activations uint8",
        executed.SIGNED: "--activations uint8, or --target x86-vnni",
        executed.FLOAT_INPUT: again,
        executed.FLOAT_OUTPUT: again,
    }


def _slow(explained: Explanation) -> Iterator[Finding]:
    whole = explained.profile.operators_ns or 1
    slow = [
        (layer.ns + layer.conversion_ns - layer.float_ns, layer)
        for layer in explained.layers
        if layer.ns is not None
        and layer.float_ns
        and layer.ns + layer.conversion_ns > 1.2 * layer.float_ns
        and (layer.ns + layer.conversion_ns - layer.float_ns) / whole > _NOTABLE_TIME
    ]
    if slow:
        slow.sort(key=lambda pair: -pair[0])
        lost = sum(difference for difference, _ in slow) / 1e6
        yield Finding(
            "slower-layers",
            f"slower than in float, with their conversions: {_names([layer for _, layer in slow])}, by {lost:.2g} ms "
            "together",
            f"--float {','.join(layer.name for _, layer in slow[:_NAMED])}; then measure it again",
        )


def _accuracy(explained: Explanation) -> Iterator[Finding]:
    if explained.why_no_values is not None:
        yield Finding("no-values", f"what it loses was not looked at: {explained.why_no_values}")
        return
    seen = [layer for layer in explained.layers if layer.result is not None]
    yield from _clipping(seen)
    yield from _unused(explained, seen)
    yield from _channels(explained, seen)
    yield from _weights(explained)
    yield from _losses(explained, seen)


def _clipping(seen: Sequence[Layer]) -> Iterator[Finding]:
    clipped = [
        (layer, share)
        for layer in seen
        if layer.result is not None and (share := layer.result.clipped) is not None and share > _CLIPPED
        # Cutting off little is what percentile and MSE do on purpose.
        and _by_rounding(layer.result) is not False
    ]
    if clipped:
        clipped.sort(key=lambda pair: -pair[1])
        layer, share = clipped[0]
        assert layer.result is not None
        yield Finding(
            "clipped",
            f"{_count(len(clipped), 'tensor')} cut off more than {_CLIPPED:.1%} of their values and lose by it; most "
            f"of all the result of {layer.name}: {share:.1%} of its values are beyond its range, they reach "
            f"{layer.result.low:.3g} to {layer.result.high:.3g}",
            "more calibration images that look like these (--samples 512), or ranges that hold all: --method minmax",
        )


def _by_rounding(result: Observed) -> bool | None:
    """Whether most of a tensor's noise came when it was rounded; None where that is not known."""
    if result.noise is None or result.noise_before is None:
        return None
    return result.noise > _BY_ROUNDING * result.noise_before


def _unused(explained: Explanation, seen: Sequence[Layer]) -> Iterator[Finding]:
    if explained.inputs < 2:
        return
    wide = [
        layer
        for layer in seen
        if layer.result is not None
        and layer.result.used is not None
        and layer.result.used < _UNUSED
        and _by_rounding(layer.result)
    ]
    if wide:
        wide.sort(key=lambda layer: -layer.added_noise)
        layer = wide[0]
        assert layer.result is not None and layer.result.used is not None
        few = f" (of {explained.inputs} inputs)" if explained.inputs < _FEW_INPUTS else ""
        yield Finding(
            "unused-range",
            f"{_count(len(wide), 'tensor')} lose by a range that is too wide: the result of {layer.name} uses "
            f"{layer.result.used:.0%} of its levels{few}",
            "--method mse, or --method percentile",
        )


def _channels(explained: Explanation, seen: Sequence[Layer]) -> Iterator[Finding]:
    """Channels that share a scale with ones 100 times as large; most of their values are rounded to nothing."""
    small = []
    for layer in seen:
        result = layer.result
        alive = [size for size in (result.channels if result is not None else ()) if size > 0]
        if result is None or result.used is None or len(alive) < 2 or not _by_rounding(result):
            continue
        count = sum(size * _SMALL_CHANNEL < max(alive) for size in alive)
        if count:
            small.append((layer, count, len(alive), max(alive) / min(alive)))
    if small:
        small.sort(key=lambda item: -item[0].added_noise)
        layer, count, channels, spread = small[0]
        yield Finding(
            "unequal-channels",
            f"{_count(len(small), 'tensor')} have channels whose range is {_SMALL_CHANNEL:.0f} times smaller than that "
            f"of the tensor, whose scale they share: of {layer.name} {count} of {channels}, the smallest {spread:.0f} "
            "times",
            "--equalize on, which scales the channels alike before they are quantized",
        )


def _weights(explained: Explanation) -> Iterator[Finding]:
    poor = [
        layer
        for layer in explained.layers
        if layer.weight_noise is not None and (sqnr_of(layer.weight_noise) or 0) < _WEIGHT_DB
    ]
    if poor:
        poor.sort(key=lambda layer: -(layer.weight_noise or 0))
        shared = any(not per_channel for _, per_channel, _ in explained.weights)
        remedy = "scales per channel (leave --per-tensor out)" if shared else "--equalize on, or --float NAMES"
        yield Finding(
            "weights",
            f"the weights of {_names(poor)} are less than {_WEIGHT_DB:.0f} dB above their rounding"
            + (", with one scale for all channels" if shared else ""),
            remedy,
        )


def _losses(explained: Explanation, seen: Sequence[Layer]) -> Iterator[Finding]:
    answer = explained.sqnr_db
    if answer is None:
        return
    ranked = [layer for layer in sorted(seen, key=lambda layer: -layer.added_noise) if layer.added_noise > 0]
    text = f"its answers are {answer:.1f} dB above the noise of quantization on {_count(explained.inputs, 'input')}"
    if answer >= _FAITHFUL_DB or not ranked:
        yield Finding("faithful", f"{text}; accuracy is measured by edgebench bench --data")
        return
    cost = "" if answer >= _POOR_DB else ", which is where classes begin to change"
    names = ",".join(layer.name for layer in ranked[:_NAMED])
    yield Finding(
        "noise",
        f"{text}{cost}. Most is added by {_names(ranked)}",
        f"--max-drop 1.0 finds which operators to keep in float; by hand: --float {names}, or 16 bits: "
        "--activations uint16",
    )


def _names(layers: Sequence[Layer]) -> str:
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return ", ".join(layer.name for layer in layers[:_NAMED]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
