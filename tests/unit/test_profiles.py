"""Device profiles: what each file may say, what it takes from another one, and what no shell shall ever see."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.config import check_device, find_device, names
from edgebench.errors import UsageError
from edgebench.types import DeviceProfile, ToolBinary

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "devices").glob("*.toml"))
FILE = Path("x.toml")
META = " \t\r\n\0;&|<>$`\"'\\!*?(){}#~,=^"

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a profile into the user's own directory, from where it is looked up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "devices").mkdir()

    def write(name: str, text: str) -> Path:
        path = tmp_path / "devices" / f"{name}.toml"
        path.write_text(text)
        return path

    return write


def _ssh(**values: Any) -> DeviceProfile:
    return DeviceProfile(**{"name": "x", "transport": "ssh", "address": "pi@10.0.0.12", **values})


def _adb(**values: Any) -> DeviceProfile:
    return DeviceProfile(**{"name": "x", "transport": "adb", **values})


def _refused(profile: DeviceProfile) -> str:
    with pytest.raises(UsageError) as caught:
        check_device(profile, FILE)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_profile_can_be_used(path: Path) -> None:
    profile = find_device(path.stem)
    assert profile.name == path.stem
    assert profile.description
    assert find_device(str(path)) == profile


def test_a_profile_has_the_keys_of_the_one_that_it_extends(write: Write) -> None:
    write("board", 'transport = "ssh"\naddress = "board"\nthreads = [4]\ngovernor = "performance"\n')
    write("mine", 'extends = "board"\naddress = "me@10.0.0.1"\n')
    found = find_device("mine")
    assert (found.name, found.address, found.threads, found.governor) == ("mine", "me@10.0.0.1", (4,), "performance")


def test_a_chain_of_profiles_is_followed_to_its_end(write: Write) -> None:
    write("a", 'extends = "b"\nport = 1\n')
    write("b", 'extends = "c"\nport = 2\ncache_mb = 2\n')
    write("c", 'transport = "ssh"\naddress = "c"\nport = 3\ncache_mb = 3\nthreads = [3]\n')
    found = find_device("a")
    assert (found.port, found.cache_mb, found.threads, found.address) == (1, 2, (3,), "c")


def test_a_profile_may_extend_the_shipped_one_of_its_own_name(write: Write) -> None:
    write("rpi4", 'extends = "rpi4"\naddress = "pi@10.0.0.12"\n')
    found = find_device("rpi4")
    assert (found.address, found.threads, found.governor) == ("pi@10.0.0.12", (4,), "performance")
    assert "Raspberry Pi 4" in found.description


def test_a_shipped_board_extends_the_users_own_generic_profile(write: Write) -> None:
    write("aarch64", 'extends = "aarch64"\ncache_mb = 123\n')
    assert find_device("rpi4").cache_mb == 123


@pytest.mark.parametrize(
    "profiles",
    [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b"}],
)
def test_profiles_that_extend_each_other_are_refused(write: Write, profiles: dict[str, str]) -> None:
    for name, parent in profiles.items():
        write(name, f'extends = "{parent}"\n')
    with pytest.raises(UsageError, match="extends itself"):
        find_device("a")


def test_a_parent_that_is_not_there_is_named(write: Write) -> None:
    path = write("a", 'extends = "nowhere"\n')
    with pytest.raises(UsageError) as caught:
        find_device("a")
    assert str(caught.value) == f"{path} extends `nowhere`, and there is no such profile"
    assert "rpi4" in (caught.value.hint or "")


def test_an_unknown_profile_says_which_there_are(write: Write) -> None:
    with pytest.raises(UsageError) as caught:
        find_device("nowhere")
    assert "no device profile `nowhere`" in str(caught.value)
    assert "rpi5" in (caught.value.hint or "")


def test_an_unknown_key_is_named_with_its_file(write: Write) -> None:
    path = write("a", 'transport = "ssh"\nadress = "b"\n')
    with pytest.raises(UsageError) as caught:
        find_device("a")
    assert str(path) in str(caught.value)
    assert "unknown key `adress`" in str(caught.value)


@pytest.mark.parametrize("line", ['adress = "b"', 'port = "22"'])
def test_a_mistake_in_a_parent_is_told_of_the_parents_file(write: Write, line: str) -> None:
    write("a", 'extends = "b"\n')
    parent = write("b", f'transport = "ssh"\naddress = "b"\n{line}\n')
    with pytest.raises(UsageError) as caught:
        find_device("a")
    assert str(parent) in str(caught.value)
    assert line.partition(" ")[0] in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        'port = "22"',
        "port = 22.0",
        "port = true",
        "address = 5",
        "threads = 4",
        'threads = ["4"]',
        "cpus = [1.5]",
        'cache_mb = "2000"',
        "governor = 1",
        "emulated = 1",
        'environment = ["A=1"]',
        "environment = {A = 1}",
        'tools = {ort_runner = "/x"}',
        'tools = {ort_runner = {file = "/x"}}',
        'transport = "usb"',
        "extends = 5",
    ],
)
def test_a_value_of_another_type_is_named_with_its_file_and_key(write: Write, line: str) -> None:
    key = line.partition(" ")[0]
    given = [text for text in ('transport = "ssh"', 'address = "a"') if not text.startswith(key + " ")]
    path = write("a", "\n".join([*given, line, ""]))
    with pytest.raises(UsageError) as caught:
        find_device("a")
    assert str(path) in str(caught.value)
    assert key in str(caught.value)


def test_a_file_that_is_not_toml_is_named(write: Write) -> None:
    path = write("a", "transport = ssh\n")
    with pytest.raises(UsageError) as caught:
        find_device("a")
    assert str(path) in str(caught.value)


def test_bytes_that_are_not_utf_8_are_not_toml(write: Write) -> None:
    path = write("a", "")
    path.write_bytes(b'transport = "ssh"\naddress = "\xff"\n')
    with pytest.raises(UsageError) as caught:
        find_device("a")
    assert str(path) in str(caught.value)


def test_a_name_may_have_dots(write: Write) -> None:
    write("pi.lab-2.example_net", 'transport = "ssh"\naddress = "pi.lab"\n')
    assert find_device("pi.lab-2.example_net").name == "pi.lab-2.example_net"
    assert "pi.lab-2.example_net" in names("devices")


@pytest.mark.parametrize("name", ["-a", ".a", "a.", "a b", "a/b", "a;b", "$a", "ä", "", "a\nb"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    assert "cannot be a device's name" in _refused(_ssh(name=name))


@pytest.mark.parametrize(
    "address",
    [
        "rpi4",
        "pi@10.0.0.12",
        "pi@raspberrypi.local",
        "user_1@host-2.example.org",
        "a.b-c@h",
        "::1",
        "root@fe80::1%eth0",
        "2001:DB8::5",
        "x",
    ],
)
def test_addresses_that_ssh_takes_are_taken(address: str) -> None:
    assert check_device(_ssh(address=address), FILE).address == address


@pytest.mark.parametrize(
    "address",
    ["-oProxyCommand=x", "a@-b", "a@b@c", "ssh://a", "a b", "a@b:22", "", "@a", "a@", "10.0.0.1:22", "%h", "a/b"],
)
def test_addresses_that_are_something_else_are_refused(address: str) -> None:
    assert "`address`" in _refused(_ssh(address=address))


@pytest.mark.parametrize(
    "serial",
    [
        "emulator-5554",
        "0123456789ABCDEF",
        "10.0.0.5:5555",
        "pi.local:5555",
        "adb-R5CR-x1._adb-tls-connect._tcp",
        "[::1]:5555",
    ],
)
def test_serials_that_adb_lists_are_taken(serial: str) -> None:
    assert check_device(_adb(serial=serial), FILE).serial == serial


@settings(deadline=None)
@given(st.text(max_size=8), st.sampled_from(META), st.text(max_size=8))
def test_nothing_for_a_shell_passes_as_address_serial_or_name(before: str, meta: str, after: str) -> None:
    text = before + meta + after
    assert "`address`" in _refused(_ssh(address=text))
    assert "`serial`" in _refused(_adb(serial=text))
    assert "cannot be a device's name" in _refused(_ssh(name=text))


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=12))
def test_no_option_passes_as_address_or_serial(text: str) -> None:
    assert "`address`" in _refused(_ssh(address="-" + text))
    assert "`serial`" in _refused(_adb(serial="-" + text))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", 0),
        ("port", -1),
        ("port", 65536),
        ("cache_mb", 0),
        ("threads", ()),
        ("threads", (0,)),
        ("threads", (4, -1)),
        ("cpus", ()),
        ("cpus", (-1,)),
        ("work_dir", ""),
        ("work_dir", "-rf"),
        ("work_dir", "a\nb"),
        ("python", ""),
        ("python", "-c"),
        ("python", "a\nb"),
        ("governor", ""),
        ("governor", "-x"),
        ("governor", "a\nb"),
    ],
)
def test_values_that_cannot_be_are_refused_with_their_key(key: str, value: Any) -> None:
    message = _refused(_ssh(**{key: value}))
    assert message.startswith(f"{FILE}: `{key}` is ")


@pytest.mark.parametrize("key", ["work_dir", "python", "governor"])
def test_a_nul_in_a_word_of_a_command_is_refused_with_its_key(key: str) -> None:
    # TOML can spell it, and no command can hold it.
    assert f"`{key}`" in _refused(_ssh(**{key: "a\0b"}))


@pytest.mark.parametrize("value", ["a\nb", "a\0b"])
def test_an_environment_that_no_command_line_can_hold_is_refused_with_its_variable(value: str) -> None:
    assert "GREETING" in _refused(_ssh(environment={"GREETING": value}))


@pytest.mark.parametrize("variable", ["", "1A", "A B", "A=B", "A-B", "A;B", "Ä", "A\n"])
def test_what_cannot_be_a_variable_is_refused(variable: str) -> None:
    assert "environment" in _refused(_ssh(environment={variable: "1"}))


@pytest.mark.parametrize(
    "values",
    [
        {"transport": "adb", "address": "a"},
        {"transport": "adb", "address": None, "port": 22},
        {"transport": "adb", "address": None, "ssh_config": "c"},
        {"transport": "ssh", "serial": "a"},
        {"transport": "local", "address": "a"},
        {"transport": "local", "address": None, "serial": "a"},
    ],
)
def test_keys_of_another_transport_are_refused(values: dict[str, Any]) -> None:
    assert "says nothing for a device with the transport" in _refused(_ssh(**values))


def test_an_ssh_device_needs_an_address() -> None:
    assert "`address` is missing" in _refused(_ssh(address=None))


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ({"perf": ToolBinary(path="/x")}, "no tool `perf`"),
        ({"benchmark_model": ToolBinary()}, "tools.benchmark_model"),
        ({"benchmark_model": ToolBinary(library="/x")}, "tools.benchmark_model"),
    ],
)
def test_tools_that_cannot_be_are_refused(tools: dict[str, ToolBinary], words: str) -> None:
    assert words in _refused(_adb(tools=tools))


def test_tools_are_for_devices_without_python() -> None:
    assert "`tools`" in _refused(_ssh(transport="local", address=None, tools={"ort_runner": ToolBinary()}))


def test_our_own_runner_needs_no_path() -> None:
    assert check_device(_adb(tools={"ort_runner": ToolBinary()}), FILE).tools == {"ort_runner": ToolBinary()}


def test_an_ssh_config_is_found_from_any_directory(write: Write, tmp_path: Path) -> None:
    (tmp_path / "devices" / "lab.config").write_text("Host a\n")
    write("a", 'transport = "ssh"\naddress = "a"\nssh_config = "lab.config"\n')
    found = find_device("a").ssh_config
    os.chdir("/")
    assert found is not None
    assert Path(found).is_file()


def test_an_ssh_config_may_be_in_the_home_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write("a", 'transport = "ssh"\naddress = "a"\nssh_config = "~/lab.config"\n')
    # ssh itself does not know `~` behind -F.
    assert find_device("a").ssh_config == str(tmp_path / "lab.config")
