"""An explanation in sentences, each with what to type: what costs time first, then what costs accuracy.

A finding says what was read or measured, in this file, on this device, on these inputs. The thresholds decide what is
worth a sentence, and are no judgement of a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgebench.explaining import executed
from edgebench.explaining.explanation import Explanation, Finding
from edgebench.explaining.layers import INPUT, Layer
from edgebench.explaining.values import Observed, sqnr_of
from edgebench.profiling.findings import float_in_int8

__all__ = ["find"]

# How many times their p50s operators took in a typical inference: times of other processes are no longer comparable.
_BUSY = 1.5
# Shares of the operators' time.
_NOTABLE_TIME = 0.02
_SLOWER, _FASTER = 1.05, 0.95
_SLOWER_LAYER = 1.2
_CLIPPED = 0.001
_UNUSED = 0.25
# How many times the noise must grow when a tensor is rounded to be the rounding's.
_BY_ROUNDING = 2.0
_FAITHFUL_DB = 30.0
_POOR_DB = 20.0
_WEIGHT_DB = 25.0
_SATURATION_DB = 3.0
# A channel so much smaller than its tensor, of whose power so much is noise, is lost.
_SMALL_CHANNEL = 100.0
_LOST_CHANNEL = 0.25
_NAMED = 3
_FEW_INPUTS = 8


def find(explained: Explanation) -> tuple[Finding, ...]:
    """All findings."""
    parts = (_speed, _instructions, _dynamic, _float, _unfused, _slow, _accuracy)
    return tuple(finding for part in parts for finding in part(explained))


def _again(explained: Explanation, flags: str) -> str:
    """How the artifact is made anew with `flags`."""
    if explained.exported:
        return f"export it again with {flags}"
    return f"edgebench export {explained.parent or 'ITS_FLOAT_MODEL'} --calib DATA {flags}".rstrip()


def _speed(explained: Explanation) -> Iterator[Finding]:
    ratio = explained.ratio
    if ratio is None:
        return
    compare = f"edgebench compare {explained.parent} {explained.path}"
    profiles = [profile for profile in (explained.profile, explained.parent_profile) if profile is not None]
    if any(profile.disturbance > _BUSY for profile in profiles):
        yield Finding("busy", "the machine was busy, so its time is not compared with the float model's", compare)
        return
    compare = f"how sure that is: {compare}"
    took = f"{explained.name} takes {ratio:.2f} of the float model's time here"
    if ratio > _SLOWER:
        yield Finding("slower", f"{took}: int8 makes it slower", f"{compare}; if so, ship the float model")
    elif ratio > _FASTER:
        yield Finding("no-faster", f"{took}: int8 gains nothing but size", compare)
    else:
        yield Finding("faster", took, compare)


def _instructions(explained: Explanation) -> Iterator[Finding]:
    cpu, here, there = explained.cpu, explained.sqnr_db, explained.device_sqnr_db
    if explained.may_saturate:
        yield Finding(
            "may-saturate",
            f"{cpu.text}, and the weights use all 8 bits, so that sums can be cut off",
            f"give up a bit of the weights: {_again(explained, '--reduce-range')}, or with --target x86-avx2",
        )
    elif cpu.known and not cpu.dot_products:
        yield Finding("no-instructions", cpu.text)
    if here is not None and there is not None and here - there > _SATURATION_DB:
        yield Finding(
            "device-differs",
            f"{explained.profile.device} answers with {there:.1f} dB and the file's own arithmetic with {here:.1f} dB: "
            "its kernels compute something else",
            _again(explained, "--reduce-range") if explained.may_saturate else None,
        )


def _dynamic(explained: Explanation) -> Iterator[Finding]:
    if explained.scheme.form != "dynamic":
        return
    share = explained.profile.share(lambda operator: operator.kind.startswith("Dynamic"))
    products = explained.profile.share(lambda operator: operator.kind.endswith("Integer"))
    yield Finding(
        "dynamic",
        f"its activations get their scales in every inference (dynamic quantization), by operators that take "
        f"{share:.0%} of the operators' time; ConvInteger and MatMulInteger take {products:.0%}",
        f"scales that are known before: edgebench export {explained.parent or 'ITS_FLOAT_MODEL'} --calib DATA",
    )


def _float(explained: Explanation) -> Iterator[Finding]:
    """Of a runtime whose graph does not tell why: what its profile tells."""
    text = None if explained.layers else float_in_int8(explained.profile)
    if text is not None:
        yield Finding("float", text)


def _unfused(explained: Explanation) -> Iterator[Finding]:
    whole = explained.profile.operators_ns or 1
    remedies = _remedies(explained)
    by_reason: dict[tuple[str, str], list[executed.Unfused]] = {}
    for group in explained.unfused:
        if group.reason != executed.BOUNDARY and _cost(group) / whole >= _NOTABLE_TIME:
            by_reason.setdefault((group.reason, group.detail), []).append(group)
    for (reason, detail), groups in by_reason.items():
        cost = sum(map(_cost, groups))
        conversions = _count(sum(group.conversions for group in groups), "conversion")
        kinds = [group.kind for group in groups if group.kind]
        remedy = remedies.get(reason)
        what = ", ".join(f"{len(group.names)} {group.kind}" for group in groups if group.kind)
        yield Finding(
            reason,
            f"{cost / whole:.0%} of the operators' time for {f'{what} in float with ' if kinds else ''}{conversions}: "
            f"{detail}",
            None if remedy is None else remedy.format(kinds=" and ".join(kinds)),
        )


def _cost(group: executed.Unfused) -> float:
    return group.ns + group.conversion_ns


_OTHERS_CHOICE = (executed.ABSORBED, executed.REQUANTIZED, executed.FLOAT_INPUT, executed.FLOAT_OUTPUT, executed.SHARED)


def _remedies(explained: Explanation) -> dict[str, str]:
    fewer = _again(explained, "--max-drop POINTS")
    # What our own export leaves in float it leaves on purpose.
    foreign = (
        {}
        if explained.exported
        else dict.fromkeys(_OTHERS_CHOICE, f"{_again(explained, '')} decides it by the whole graph")
    )
    return {
        **foreign,
        executed.NO_KERNEL: "exchange {kinds} in the network and train on, or leave what is around in float: "
        + _again(explained, "--float NAMES"),
        executed.WIDE: f"spend 16 bits only where they are needed: {fewer}, or nowhere: --activations uint8",
        executed.SIGNED: _again(explained, "--activations uint8") + ", or with --target x86-vnni",
    }


def _slow(explained: Explanation) -> Iterator[Finding]:
    whole = explained.profile.operators_ns or 1
    told = {name for group in explained.unfused for name in group.names}
    slow = []
    for layer in explained.layers:
        if layer.ns is None or not layer.float_ns or layer.name in told:
            continue
        spent = layer.ns + layer.conversion_ns
        if spent > _SLOWER_LAYER * layer.float_ns and (spent - layer.float_ns) / whole > _NOTABLE_TIME:
            slow.append((spent - layer.float_ns, layer))
    if slow and explained.scheme.form != "dynamic":
        slow.sort(key=lambda pair: -pair[0])
        layers = [layer for _, layer in slow]
        yield Finding(
            "slower-layers",
            f"slower in int8 than in float: {_names(layers)}, by {sum(lost for lost, _ in slow) / 1e6:.2g} ms"
            + (" together" if len(slow) > 1 else ""),
            f"{_again(explained, f'--float {_float_names(layers)}')}, and measure both",
        )


def _accuracy(explained: Explanation) -> Iterator[Finding]:
    if explained.why_no_values is not None:
        yield Finding("no-values", f"what it loses layer by layer is not known: {explained.why_no_values}")
    seen = [(layer, layer.result) for layer in explained.layers if layer.result is not None]
    yield from _clipping(explained, seen)
    yield from _unused(explained, seen)
    yield from _channels(explained, seen)
    yield from _weights(explained)
    yield from _losses(explained)


Seen = Sequence[tuple[Layer, Observed]]


def _by_rounding(result: Observed) -> bool | None:
    """Whether most of a tensor's noise came when it was rounded; None where that is not known."""
    if result.noise is None or result.noise_before is None:
        return None
    return result.noise > _BY_ROUNDING * result.noise_before


def _clipping(explained: Explanation, seen: Seen) -> Iterator[Finding]:
    # Cutting off a little is what percentile and MSE do on purpose.
    clipped = [
        (share, layer, result)
        for layer, result in seen
        if (share := result.clipped) is not None and share > _CLIPPED and _by_rounding(result) is not False
    ]
    if clipped:
        share, layer, result = max(clipped, key=lambda item: item[0])
        whole = "" if (explained.calibration or "").startswith("minmax") else " --method minmax"
        yield Finding(
            "clipped",
            f"{_tensors(len(clipped), 'loses', 'lose')} by clipping{_most(clipped)} {_what(layer)}, of whose values "
            f"{share:.1%} are beyond its range (they reach from {result.low:.3g} to {result.high:.3g})",
            f"calibrate on images like these, and on more: {_again(explained, f'--samples 512{whole}')}",
        )


def _unused(explained: Explanation, seen: Seen) -> Iterator[Finding]:
    wide = [
        (layer, result.used)
        for layer, result in seen
        if result.used is not None and result.used < _UNUSED and _by_rounding(result)
    ]
    if wide:
        layer, used = max(wide, key=lambda item: item[0].added_noise)
        few = f" (by {_count(explained.inputs, 'input')})" if explained.inputs < _FEW_INPUTS else ""
        yield Finding(
            "unused-range",
            f"{_tensors(len(wide), 'loses', 'lose')} by a range that is too wide{_most(wide)} {_what(layer)}, of whose "
            f"levels {used:.0%} are used{few}",
            f"{_again(explained, '--method mse')}, or with --method percentile",
        )


def _channels(explained: Explanation, seen: Seen) -> Iterator[Finding]:
    if (explained.sqnr_db or 0) >= _FAITHFUL_DB:
        return
    lost = []
    for layer, result in seen:
        largest = max(result.channels, default=0.0)
        pairs = zip(result.channels, result.channel_noise, strict=len(result.channel_noise) > 0)
        small = [size for size, noise in pairs if 0 < size * _SMALL_CHANNEL < largest and noise > _LOST_CHANNEL]
        if small and result.used is not None:
            lost.append((len(small), layer, result, largest / min(small)))
    if lost:
        count, layer, result, spread = max(lost, key=lambda item: item[0])
        yield Finding(
            "unequal-channels",
            f"{_tensors(len(lost), 'has', 'have')} channels that are rounded away, because they share a scale "
            f"with ones over {_SMALL_CHANNEL:.0f} times as large{_most(lost)} {_what(layer)}: {count} of its "
            f"{len(result.channels)} channels, the smallest by {spread:.0f} times",
            f"scale the channels alike first: {_again(explained, '--equalize on')}",
        )


def _weights(explained: Explanation) -> Iterator[Finding]:
    poor = [
        layer
        for layer in explained.layers
        if layer.weight_noise is not None and (sqnr_of(layer.weight_noise) or 0) < _WEIGHT_DB
    ]
    if poor:
        poor.sort(key=lambda layer: -(layer.weight_noise or 0))
        shared = any(not per_channel for _, per_channel, _ in explained.scheme.weights)
        text = f"the weights of {_names(poor)} are less than {_WEIGHT_DB:.0f} dB above their rounding"
        if shared:
            yield Finding("weights", f"{text}, with one scale for all channels", _again(explained, "") + _PER_CHANNEL)
        else:
            yield Finding("weights", text, _again(explained, f"--float {_float_names(poor)}"))


_PER_CHANNEL = ", without --per-tensor: a scale for each channel"


def _losses(explained: Explanation) -> Iterator[Finding]:
    answer = explained.sqnr_db if explained.layers else explained.device_sqnr_db
    if answer is None:
        return
    ranked = [layer for layer in sorted(explained.layers, key=lambda item: -item.added_noise) if layer.added_noise > 0]
    text = f"its answers are {answer:.1f} dB above the noise of quantization, on {_count(explained.inputs, 'input')}"
    poor = ", which is where answers begin to change" if answer < _POOR_DB else ""
    if answer >= _FAITHFUL_DB or not ranked:
        kind = "faithful" if answer >= _FAITHFUL_DB else "noise"
        yield Finding(kind, text + poor, "what that is in accuracy: edgebench bench --data")
        return
    operators = [layer for layer in ranked if layer.kind != INPUT]
    if explained.scheme.form == "dynamic":
        yield Finding("noise", f"{text}{poor}")
        return
    yield Finding(
        "noise",
        f"{text}{poor}. Most is added by {_names(ranked)}",
        f"{_again(explained, '--max-drop 1.0')}, which finds what to keep in float; by hand with --float "
        f"{_float_names(operators)}, or --activations uint16",
    )


def _what(layer: Layer) -> str:
    return f"the input `{layer.name}`" if layer.kind == INPUT else f"the result of {layer.name}"


def _names(layers: Sequence[Layer]) -> str:
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return ", ".join(layer.name for layer in layers[:_NAMED]) + more


def _float_names(layers: Sequence[Layer]) -> str:
    """As the float model calls them: onnxruntime's quantizer appends a word."""
    return ",".join(layer.name.removesuffix("_quant") for layer in layers[:_NAMED])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _most(found: Sequence[object]) -> str:
    return ":" if len(found) == 1 else "; most of all"


def _tensors(number: int, one: str, several: str) -> str:
    return f"1 tensor {one}" if number == 1 else f"{number} tensors {several}"
