"""What a tool printed, read exactly: decimal text to nanoseconds, figures that have to agree, and its last words.

Printed figures are decimal and rounded. They are kept as decimals together with the rounding that their digits imply,
so that two roundings of one figure agree while a contradiction shows, and become integers only once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise

__all__ = ["Figure", "Log", "ToolOutputError", "rounded_ns"]

_EXPONENTS = {"s": 9, "sec": 9, "ms": 6, "us": 3, "ns": 0}
# Without a sign: no tool has a use for negative times.
_TIME = re.compile(r"(\d{1,20})(?:\.(\d{0,20}))?(?:[eE]([-+]?\d{1,2}))? *([A-Za-z]*)", re.ASCII)
_COUNT = re.compile(r"\d{1,12}", re.ASCII)
# More than three years is garbage in the place of a number.
_LONGEST_NS = 10**17
_COMPLAINT = re.compile(
    r"error|fail|fatal|abort|invalid|unknown|unrecogni[sz]ed|unsupported|cannot|could not|couldn't"
    r"|not (?:found|supported|a valid)|no such|there is no|terminating",
    re.IGNORECASE,
)
# These say that something went wrong, and the line before them what.
_FAREWELL = re.compile(r"Benchmarking failed|Run failed: ?failed to initialize|See '.*--help'|Try --help")
_LONGEST_QUOTE = 300


class ToolOutputError(ValueError):
    """A tool did not print what it prints after a run; the message says what was expected and quotes the tool."""


@dataclass(frozen=True)
class Figure:
    """A time as it was printed: exactly `ns`, which stands for any time that is no further from it than `within_ns`,
    half a step of the last digit."""

    ns: Decimal
    within_ns: Decimal

    @property
    def rounded_ns(self) -> int:
        """The nearest integer, of two the even one."""
        return int(self.ns.to_integral_value(ROUND_HALF_EVEN))

    def shared_by(self, runs: int) -> Figure:
        """Each one's part, if `runs` took this together."""
        return Figure(self.ns / runs, self.within_ns / runs)

    def agrees_with(self, other: Figure) -> bool:
        """Whether both can be roundings of one time; a half that one rounds up and the other down is taken for none."""
        return abs(self.ns - other.ns) < self.within_ns + other.within_ns

    def is_above(self, other: Figure) -> bool:
        """Whether this is the longer time however both were rounded."""
        return self.ns - self.within_ns >= other.ns + other.within_ns


@dataclass(frozen=True)
class Log:
    """Both streams of a tool, line by line and without the space around them."""

    tool: str
    stdout: tuple[str, ...]
    stderr: tuple[str, ...]

    @classmethod
    def of(cls, tool: str, stdout: str, stderr: str) -> Log:
        """What `tool` printed. Which stream a line came by says nothing: versions of a tool differ in it."""
        out, err = ([line.strip() for line in text.splitlines()] for text in (stdout, stderr))
        return cls(tool, tuple(line for line in out if line), tuple(line for line in err if line))

    def find(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        """The lines in which `pattern` occurs."""
        return [match for line in (*self.stdout, *self.stderr) if (match := pattern.search(line))]

    def times(self, pattern: re.Pattern[str], *, unit: str = "") -> list[Figure]:
        """The time in `pattern`'s first group, for each line in which it occurs."""
        return [self.time(match.group(1), match.string, unit=unit) for match in self.find(pattern)]

    def counts(self, pattern: re.Pattern[str]) -> list[int]:
        """The number in `pattern`'s first group, for each line in which it occurs."""
        return [self.count(match.group(1), match.string) for match in self.find(pattern)]

    def time(self, text: str, line: str, *, unit: str = "") -> Figure:
        """A time such as `12.5 ms`; `unit` is for a text that names none."""
        text = text.strip()
        match = _TIME.fullmatch(text)
        exponent = None if match is None else _EXPONENTS.get(match.group(4) or unit)
        if match is None or exponent is None:
            expected = f"a time in {unit}" if unit else "a time in s, ms, us or ns"
            raise ToolOutputError(f"{self.tool}: expected {expected} in `{_quote(line)}`, found `{_quote(text)}`")
        whole, fraction = match.group(1), match.group(2) or ""
        exponent += int(match.group(3) or 0) - len(fraction)
        # From digits, because Decimal's arithmetic would round to 28 of them.
        ns = Decimal((0, tuple(map(int, whole + fraction)), exponent))
        within_ns = Decimal((0, (5,), exponent - 1))
        if max(ns, within_ns) > _LONGEST_NS:
            raise ToolOutputError(f"{self.tool}: expected a time, found years in `{_quote(line)}`")
        return Figure(ns, within_ns)

    def count(self, text: str, line: str) -> int:
        """A number of runs."""
        if not _COUNT.fullmatch(text.strip()):
            raise ToolOutputError(
                f"{self.tool}: expected a number of runs in `{_quote(line)}`, found `{_quote(text.strip())}`"
            )
        return int(text)

    def one_time(self, what: str, figures: Sequence[Figure]) -> Figure | None:
        """The finest of `figures`, which are one time printed more than once; None if there are none."""
        finest = min(figures, key=lambda figure: figure.within_ns, default=None)
        for figure in figures:
            if finest is not None and not finest.agrees_with(figure):
                raise ToolOutputError(
                    f"{self.tool}: expected one {what}, found {finest.ns.normalize():f} ns and "
                    f"{figure.ns.normalize():f} ns"
                )
        return finest

    def one_count(self, what: str, counts: Sequence[int]) -> int:
        """The number that all `counts` are."""
        if len(set(counts)) != 1:
            found = " and ".join(str(count) for count in sorted(set(counts))) or "none"
            raise ToolOutputError(f"{self.tool}: expected one {what}, found {found}; it said: {self.last_words()}")
        return counts[0]

    def check_order(self, rising: Sequence[tuple[str, Figure | None]]) -> None:
        """Refuse times that are not in their order."""
        known = [(name, figure) for name, figure in rising if figure is not None]
        for (name, figure), (next_name, next_figure) in pairwise(known):
            if figure.is_above(next_figure):
                raise ToolOutputError(
                    f"{self.tool}: expected {name} to be at most {next_name}, "
                    f"found {figure.rounded_ns} ns and {next_figure.rounded_ns} ns"
                )

    def missing(self, expected: str) -> ToolOutputError:
        """The error of a log without what was `expected`."""
        return ToolOutputError(f"{self.tool}: expected {expected}; it said: {self.last_words()}")

    def last_words(self) -> str:
        """The last line that complains and says of what; without any, the last line at all."""
        for lines in (self.stderr, self.stdout):
            complaints = [line for line in lines if _COMPLAINT.search(line)]
            told = [line for line in complaints if not _FAREWELL.search(line)]
            if told:
                return _quote(told[-1])
        lines = (*self.stdout, *self.stderr)
        farewells = [line for line in lines if _FAREWELL.search(line)]
        return _quote((farewells or list(lines) or ["nothing"])[-1])


def rounded_ns(figure: Figure | None) -> int | None:
    """The time in whole nanoseconds, if it was told."""
    return None if figure is None else figure.rounded_ns


def _quote(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."
