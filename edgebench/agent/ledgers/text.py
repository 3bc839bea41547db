"""The lines and temperatures in what a tool printed, as far as they are whole."""

from __future__ import annotations

import re
from typing import List, Optional

# As `state` has them: what lies outside is a sensor that is not fitted (-99.9, -256) or off.
_COLDEST_MC, _HOTTEST_MC = -40_000, 150_000


def whole_lines(text: str) -> List[str]:
    """The lines that have an end, without white space around them; empty ones are left out."""
    lines = [line.strip() for line in text.split("\n")[:-1]]
    return [line for line in lines if line]


def millidegrees(degrees: str) -> Optional[int]:
    """Milli-degrees of a decimal number of degrees Celsius, or None where no sensor can have measured that."""
    if not re.fullmatch(r"-?[0-9]{1,4}(\.[0-9]{1,12})?", degrees):
        return None
    value = round(float(degrees) * 1000)
    return value if _COLDEST_MC < value < _HOTTEST_MC else None
