"""The one place where words are quoted for a device's shell, against real shells."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.errors import DeviceError
from edgebench.targets.target import remote_line

SHELLS = [path for name in ("sh", "dash", "bash", "busybox", "mksh") if (path := shutil.which(name)) is not None]
WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n"), max_size=12) | st.sampled_from(
    [
        "",
        "-",
        "--",
        "-n",
        "$HOME",
        "$(id)",
        "`id`",
        "a b",
        "'",
        '"',
        "\\",
        "'\"'\"'",
        "*",
        "~",
        "!!",
        "#",
        "&&",
        "a=b",
        "\r",
    ]
)
VARIABLE = st.from_regex(r"EB_[A-Za-z0-9_]{0,5}", fullmatch=True)
SHOW = (
    "import json, os, sys; print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if k[:3] == 'EB_'}]))"
)


@pytest.mark.parametrize("shell", SHELLS)
@given(batch=st.lists(st.lists(WORD, max_size=6), min_size=1, max_size=20))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_arrive_as_they_are(shell: str, batch: list[list[str]]) -> None:
    # One line each, all in one shell, so that many can be tried.
    lines = [remote_line(["printf", r"%s\0", "begin", *words], None) for words in batch]
    script = "\n".join(f"({line})" for line in lines)
    command = [shell, "sh", "-c", script] if shell.endswith("busybox") else [shell, "-c", script]
    done = subprocess.run(command, capture_output=True, check=True)
    expected = "".join(f"{word}\0" for words in batch for word in ("begin", *words))
    assert done.stdout == expected.encode()


@given(words=st.lists(WORD, max_size=6), environment=st.dictionaries(VARIABLE, WORD, max_size=3))
@settings(max_examples=12, deadline=None)
def test_words_and_environment_arrive_together(words: list[str], environment: dict[str, str]) -> None:
    line = remote_line([sys.executable, "-c", SHOW, *words], environment)
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert json.loads(done.stdout) == [words, environment]


def test_the_command_takes_the_shells_place() -> None:
    # So that a signal to it, and its exit code, are the command's.
    done = subprocess.run(["sh", "-c", remote_line(["sh", "-c", "kill -9 $$"], {"A": "1"})], check=False)
    assert done.returncode == -9


@settings(deadline=None)
@given(st.text(max_size=5), st.sampled_from("\0\n"), st.text(max_size=5), st.integers(0, 2))
def test_what_one_line_cannot_hold_is_refused(before: str, character: str, after: str, place: int) -> None:
    words = ["a", "b", "c"]
    words[place] = before + character + after
    with pytest.raises(DeviceError, match="line break"):
        remote_line(words, None)
    with pytest.raises(DeviceError, match="line break"):
        remote_line(["a"], {"A": words[place]})
