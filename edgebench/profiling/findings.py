"""What a profile says in words: what to believe of it, where the time goes, and what to do next."""

from __future__ import annotations

from collections import Counter

from edgebench.profiling.profile import Operator, Profile, module_at, totals

__all__ = ["comparison", "doubts", "float_in_int8"]

_HEAVY_PROFILER = 1.1
_MUCH_BETWEEN = 0.9
_DISTURBED = 1.2
_NOTABLE = 0.01
_NAMED = 4
# A module that differs by less is not worth a word.
_SLOWER = 1.05


def doubts(profile: Profile) -> list[str]:
    """What the profile cannot say, and how far its times are from those without the profiler."""
    found = list(profile.notes)
    if profile.overhead is not None and profile.overhead > _HEAVY_PROFILER:
        found.append(
            f"with the profiler an inference takes {profile.overhead:.2f} times as long: operators of a few "
            "microseconds look slower than they are; latency is what `edgebench bench` says"
        )
    if profile.accounted < _MUCH_BETWEEN:
        found.append(
            f"{1 - profile.accounted:.0%} of the profiled inference was in no operator: the runtime between them, and "
            "the profiler"
        )
    if profile.disturbance > _DISTURBED:
        found.append(
            f"the machine was busy: operators took {profile.disturbance:.1f} times their p50 in a typical inference; "
            "profile again when it is quiet"
        )
    unknown = profile.share(lambda operator: operator.module is None)
    if unknown > _NOTABLE:
        found.append(f"{unknown:.0%} of the operators' time is of no known module: {_why_unknown(profile)}")
    guessed = profile.share(lambda operator: operator.guessed)
    if guessed > _NOTABLE:
        found.append(
            f"{guessed:.0%} of the operators' time has the module of what reads it: no exporter named these operators"
        )
    return found


def _why_unknown(profile: Profile) -> str:
    if profile.runtime in ("torchscript", "torch"):
        return "TorchScript does not keep them; the ONNX artifact of the same bundle does"
    which = "them all" if profile.knows_modules else "any"
    return f"the file does not name {which}; one that `edgebench export` makes of the network does, in its bundle"


def float_in_int8(profile: Profile) -> str | None:
    """How much of an int8 model's time is not int8, and what to do; None where nothing is computed in int8."""
    if not any(operator.work == "int8" for operator in profile.operators):
        return None
    floating = [operator for operator in profile.operators if operator.work == "float"]
    float_share = profile.share(lambda operator: operator.work == "float")
    conversions = [operator for operator in profile.operators if operator.work == "conversion"]
    text = f"{profile.name} computes {profile.share(lambda operator: operator.work == 'int8'):.0%} of its time in int8"
    if conversions:
        share = profile.share(lambda operator: operator.work == "conversion")
        text += f", converts between int8 and float for {share:.0%} ({_count(len(conversions), 'conversion')})"
    if not floating:
        return f"{text}; no operator computes in float"
    text += f", and computes in float for {float_share:.0%}, in {_count(len(floating), 'operator')}: {_kinds(floating)}"
    if float_share < _NOTABLE:
        return text
    without = [operator for operator in floating if operator.converted]
    if without:
        kinds = ", ".join(kind for kind, _ in Counter(operator.kind for operator in without).most_common(_NAMED))
        example = " (ReLU in place of Hardswish)" if "HardSigmoid" in kinds or "HardSwish" in kinds else ""
        text += (
            f". {profile.runtime} found no int8 kernel for {kinds}, and converts to float and back for them; next: "
            f"exchange them in the network and train on{example}, or leave what is around them in float"
        )
    else:
        text += ". The file has them in float: they were not quantized"
    return text


def comparison(before: Profile, after: Profile, depth: int) -> str:
    """How the times of two profiles compare, and which modules became slower."""
    ours, theirs = (
        {total.name: total.p50_ns for total in totals(profile, lambda operator: module_at(operator, depth))}
        for profile in (before, after)
    )
    text = f"the operators of {after.name} take {after.operators_ns / before.operators_ns:.2f} of {before.name}'s time"
    slower = sorted(
        (name for name in ours if name in theirs and theirs[name] > _SLOWER * ours[name]),
        key=lambda name: ours[name] - theirs[name],
    )
    if slower:
        more = f" and {len(slower) - _NAMED} more" if len(slower) > _NAMED else ""
        lost = sum(theirs[name] - ours[name] for name in slower) / 1e6
        text += f"; {', '.join(slower[:_NAMED])}{more} take longer, by {lost:.2g} ms together"
    else:
        text += ", and no module takes longer"
    return f"{text}. Which one is faster, and how sure that is: edgebench compare"


def _kinds(operators: list[Operator]) -> str:
    times: Counter[str] = Counter()
    for operator in operators:
        times[operator.kind] += round(operator.p50_ns)
    counts = Counter(operator.kind for operator in operators)
    named = [f"{counts[kind]} {kind}" for kind, _ in times.most_common(_NAMED)]
    return ", ".join([*named, *(["..."] if len(times) > _NAMED else [])])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
