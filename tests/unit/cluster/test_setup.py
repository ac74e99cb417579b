"""The set-up chooses the right packages, knows when it is current, and says in one line what a machine lacks."""

import io
import os
import re
import tomllib
from pathlib import Path

import pytest

from cluster import deepspeed_op as kernels
from cluster import setup, setup_checks
from cluster.setup_checks import CPU, GPU, Build
from cluster.units import GIB
from tests.fixtures.paths import ROOT


def found(_: str) -> str:
    return "/usr/bin/tool"


def missing(_: str) -> None:
    return None


def test_a_machine_without_a_driver_gets_the_cpu_build() -> None:
    assert setup_checks.choose_build([], "") is CPU
    assert setup_checks.choose_build([], "NVIDIA-SMI has failed because it couldn't communicate with the driver") is CPU


@pytest.mark.parametrize(("nodes", "listing"), [(["/dev/nvidia0"], ""), ([], "GPU 0: NVIDIA H100 80GB HBM3 (UUID: x)")])
def test_a_device_node_or_nvidia_smi_gets_the_gpu_build(nodes: list[str], listing: str) -> None:
    assert setup_checks.choose_build(nodes, listing) is GPU


def test_stamp_changes_with_each_file_and_with_the_python(tmp_path: Path) -> None:
    lock, project = tmp_path / "lock", tmp_path / "project"
    lock.write_text("a"), project.write_text("b")
    stamps = [setup.stamp_hash([lock, project], "3.11.7"), setup.stamp_hash([lock, project], "3.12.1")]
    project.write_text("c")
    stamps.append(setup.stamp_hash([lock, project], "3.11.7"))
    lock.write_text("")
    stamps.append(setup.stamp_hash([lock, project], "3.11.7"))
    assert len(set(stamps)) == 4
    assert setup.stamp_hash([lock, project], "3.11.7") == stamps[3]


def test_missing_things_are_named_with_a_remedy_on_one_line(tmp_path: Path) -> None:
    problems = [
        setup_checks.platform_problem("Darwin", "arm64"),
        setup_checks.python_problem((3, 10)),
        setup_checks.tool_problem("g++", "g++", "gcc-c++", missing),
        setup_checks.header_problem(tmp_path),
        setup_checks.disk_problem(GIB, 6, tmp_path),
    ]
    named = ["Darwin on arm64", "Python 3.10", "g++ is missing", "Python.h", "1.0 GiB free, about 6 GiB"]
    for problem, name in zip(problems, named, strict=True):
        assert problem is not None
        assert name in problem and ": " in problem and "\n" not in problem


def test_a_machine_that_has_everything_gets_no_message(tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    assert setup_checks.platform_problem("Linux", "x86_64") is None
    assert setup_checks.python_problem((3, 11)) is None
    assert setup_checks.tool_problem("g++", "g++", "gcc-c++", found) is None
    assert setup_checks.header_problem(tmp_path) is None
    assert setup_checks.disk_problem(6 * GIB, 6, tmp_path) is None


def test_accepted_pythons_are_those_of_pyproject() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = setup_checks.PYTHON_VERSIONS[0], setup_checks.PYTHON_VERSIONS[-1]
    assert wanted == f">={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}"


def test_pips_configuration_is_passed_on_with_the_environment_first() -> None:
    listing = "\n".join(
        [
            "global.index-url='https://mirror.example/simple'",
            ":env:.find-links='/wheels https://wheels.example'",
            "global.find-links='/old'",
            "global.extra-index-url='https://more.example/simple'",
            "global.cert='/etc/ca.pem'",
        ]
    )
    settings = setup.pip_settings(listing)
    assert setup.uv_options(settings) == [
        *("--default-index", "https://mirror.example/simple"),
        *("--index", "https://more.example/simple"),
        *("--find-links", "/wheels", "--find-links", "https://wheels.example"),
        *("--index-strategy", "unsafe-best-match"),
    ]
    assert setup.uv_environment(settings, {"PATH": "/bin"})["SSL_CERT_FILE"] == "/etc/ca.pem"


def test_the_users_own_certificate_wins_over_pips() -> None:
    environment = setup.uv_environment({"cert": "/etc/ca.pem"}, {"SSL_CERT_FILE": "/mine.pem", "PATH": "/bin"})
    assert environment["SSL_CERT_FILE"] == "/mine.pem"
    assert environment["PATH"].endswith(":/bin")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            ["ERROR: Could not find a version that satisfies the requirement uv (from versions: none)"],
            "check the network",
        ),
        (["error: Failed to fetch: `https://pypi.org/simple/rich/`", "dns error"], "check the network"),
        (["OSError: [Errno 28] No space left on device"], "free some space"),
        (["The virtual environment was not created because ensurepip is not available."], "python3-venv"),
        (["fine so far", "error: something new"], "error: something new (full output: /log)"),
        ([], "no output"),
    ],
)
def test_a_failed_command_is_explained_on_one_line(output: list[str], expected: str) -> None:
    line = setup.explain("packages", output, Path("/log"))
    assert expected in line and "\n" not in line


def test_a_step_reports_success_and_hands_back_the_output_of_a_failure(tmp_path: Path) -> None:
    terminal = io.StringIO()
    steps = setup.Steps(2, tmp_path / "log", terminal)
    steps.run_or_fail("first", ["sh", "-c", "echo hello"], dict(os.environ))
    assert re.fullmatch(r"\[1/2\] first  \d s  done\n", terminal.getvalue())
    with pytest.raises(setup_checks.SetupError, match=r"second failed: error: broken"):
        steps.run_or_fail("second", ["sh", "-c", "echo error: broken; exit 3"], dict(os.environ))
    assert "hello" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("build", [CPU, GPU])
def test_locks_pin_pyprojects_torch_and_leave_out_what_overrides_turn_off(build: Build) -> None:
    lock = build.lock.read_text()
    text = "\n".join(file.read_text() for file in setup.override_files(build))
    off = re.findall(r'^(\S+) ; sys_platform == "never"', text, re.MULTILINE)
    assert {"torchaudio", "torchcodec"} <= set(off) and ("torchvision" in off) == (build is CPU)
    assert ("\ntorchvision==" in lock) == (build is GPU)  # vLLM loads no model with a vision part without it
    assert not [name for name in off if re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE)]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for pin in extras[build.name]:
        assert f"\n{pin}{build.torch_local if pin.startswith('torch==') else ''}\n" in lock


@pytest.mark.parametrize("build", [CPU, GPU])
def test_locks_name_no_host_and_no_path(build: Build) -> None:
    assert not re.search(
        r"://|^-|/[a-z]+/", re.sub("^#.*", "", build.lock.read_text(), flags=re.MULTILINE), re.MULTILINE
    )


def test_rows_that_overrides_turned_off_do_not_reach_a_lock() -> None:
    resolved = "ray==1\ntorchvision==2 ; sys_platform == 'never'\nrich==3 ; os_name == 'x' or sys_platform == 'never'"
    assert setup.lock_text("cpu", resolved).splitlines()[1:] == ["ray==1", resolved.splitlines()[2]]


def test_a_compilation_lock_counts_only_while_a_process_has_it_open(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    descriptors = tmp_path / "proc" / "4711" / "fd"
    descriptors.mkdir(parents=True)
    assert not kernels.is_lock_open(lock, tmp_path / "proc")
    (descriptors / "3").symlink_to(lock)
    assert kernels.is_lock_open(lock, tmp_path / "proc")


def test_ninja_is_found_beside_python_once() -> None:
    path = kernels.path_with_tools("/usr/bin", "/venv/bin/python")
    assert path == "/venv/bin:/usr/bin"
    assert kernels.path_with_tools(path, "/venv/bin/python") == path


def test_the_gpu_build_never_takes_torch_from_a_folder_of_wheels_unless_there_is_no_index() -> None:
    """There `torch==2.13.0` would be 2.13.0+cpu, and everything that was compiled for CUDA fails to load."""
    options = ["--default-index", "https://mirror.example/simple", "--find-links", "/wheels", "--index", "file:///more"]
    assert setup.torch_options(CPU, options) == options
    assert setup.torch_options(GPU, options) == [*options[:2], *options[4:]]
    offline = ["--find-links", "/wheels", "--no-index"]
    assert setup.torch_options(GPU, offline) == offline
