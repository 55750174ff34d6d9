"""The commands of README.md and docs/, run as a new user would run them: see ``tests.documents`` for the marks, and
``tests.installed`` for where they run. Pages whose blocks build on one another are followed block by block below, and
docs/mqtt.md in ``test_mqtt_doc``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zipfile import ZipFile

import pytest

from cachenet.shared.bundle import zoo
from tests.broker import free_port
from tests.documents import INSTALL, PAGES, Block, blocks, read
from tests.installed import EXTRAS, FreshInstall, fresh_install

__all__ = ["fresh_install"]

LIMIT_S = 900
BLOCKS = [block for page in PAGES for block in read(page)]
_INDENTED = re.compile(r" {4}(edge-agent|cloud-server|model-builder|simulator|pip|python3?|git|mosquitto\S*) ")
SINGLE = [block for block in BLOCKS if block.tested and block.page != "docs/mqtt.md"]


def run(commands: str, place: Path, variables: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=place,
        env=variables,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("block", SINGLE, ids=str)
def test_a_block_of_commands_runs_in_a_clone(block: Block, fresh_install: FreshInstall, tmp_path: Path) -> None:
    run(block.commands, fresh_install.copy(tmp_path / "cachenet"), fresh_install.variables(tmp_path, block.note or ""))


COMMANDS = ("edge-agent", "cloud-server", "model-builder", "simulator")
PACKAGES = ("edge_agent", "cloud_server", "models", "shared", "simulator")


@pytest.fixture
def occupied(tmp_path: Path) -> Path:
    """A directory with Python packages of its own that have the names of the project's directories."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        for file in ("__init__.py", "__main__.py"):
            (tmp_path / name / file).write_text(f"raise RuntimeError('{name} of the user was imported')\n")
    return tmp_path


@pytest.mark.parametrize(
    ("extra", "commands"),
    [
        (
            "",
            "simulator stream dwell --frames 8 --out here\n"
            "edge-agent run here --bundle cifar10 --output - | grep -c label\n"
            "edge-agent run here/000000.png --bundle cifar10 --output - | grep -c label\n"
            "python -m cachenet.edge_agent run here --bundle cifar10 --output - | grep -c label\n"
            "model-builder show imagenet-lite",
        ),
        ("cloud", "cloud-server doctor --bundle cifar10 --port 1890\npython -m cachenet.cloud_server --version"),
        ("sim", "simulator compare --seeds 1 --frames 32\npython -m cachenet.simulator --version"),
        ("build", "model-builder build --help\npython -m cachenet.models --version"),
    ],
)
def test_what_is_installed_needs_no_clone_and_imports_nothing_of_the_working_directory(
    extra: str, commands: str, fresh_install: FreshInstall, occupied: Path
) -> None:
    run(commands, occupied, fresh_install.variables(occupied, extra))


@pytest.mark.parametrize("path", ["", "."])
def test_all_four_commands_start_in_a_directory_with_packages_of_the_same_names(
    path: str, fresh_install: FreshInstall, occupied: Path
) -> None:
    """Also where PYTHONPATH has that directory come first."""
    variables = fresh_install.variables(occupied) | ({"PYTHONPATH": path} if path else {})
    said = run("\n".join(f"{command} --version" for command in COMMANDS), occupied, variables)
    assert [line.split()[0] for line in said.splitlines()] == list(COMMANDS)
    library = "import cachenet, numpy\nwith cachenet.load('cifar10') as device: device(numpy.zeros((8, 8, 3), 'u1'))"
    run(f'python -c "{library}"', occupied, variables)


def test_one_import_package_is_installed(fresh_install: FreshInstall, occupied: Path) -> None:
    packed = {name.partition("/")[0] for name in ZipFile(fresh_install.wheel).namelist()}
    assert {name for name in packed if not name.endswith(".dist-info")} == {"cachenet"}
    for name in PACKAGES:
        found = f"import importlib.util, sys; del sys.path[0]; print(importlib.util.find_spec('{name}'))"
        assert run(f'python -c "{found}"', occupied, fresh_install.variables(occupied)).strip() == "None"


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "shared"])
def test_a_package_runs_by_its_directory_in_a_clone(package: str, fresh_install: FreshInstall) -> None:
    assert "Usage" in run(
        f"python -m {package} --help", fresh_install.clone, fresh_install.variables(fresh_install.clone)
    )


def test_the_wheel_has_every_file_of_the_zoo(fresh_install: FreshInstall) -> None:
    """And little else: 29 MB, as the README says."""
    packed = set(ZipFile(fresh_install.wheel).namelist())
    files = (path.relative_to(zoo.DIRECTORY) for path in zoo.DIRECTORY.rglob("*") if path.is_file())
    there = {f"cachenet/models/zoo/{path}" for path in files}
    assert there
    assert there <= packed
    assert fresh_install.wheel.stat().st_size < 30e6


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_environment_has_no_package_that_its_extra_does_not_ask_for(extra: str, fresh_install: FreshInstall) -> None:
    """The device's above all: no torch, no ONNX, no plotting."""
    wanted = {"": set(), "cloud": {"iotcore"}, "sim": {"iotcore", "onnx", "matplotlib", "simpy"}}
    wanted["build"] = {"onnx", "matplotlib", "torch"}
    found = run("pip list --format freeze", fresh_install.clone, fresh_install.variables(fresh_install.clone, extra))
    names = {line.partition("==")[0].lower() for line in found.splitlines()}
    assert names & {"iotcore", "onnx", "matplotlib", "simpy", "torch"} == wanted[extra]


# Pages that are followed from top to bottom: what they run stays up while the next block is read.


def followed(page: str, has: str) -> str:
    """The commands of the one block of ``page`` with ``has``, without the lines that make an environment: those are
    ``tests.installed``'s. ``.venv/bin/`` is its place."""
    (commands,) = [block.commands for block in BLOCKS if block.page == page and has in block.commands]
    lines = commands.splitlines()
    kept = [line for line in lines if not INSTALL.search(line) and "-m venv" not in line and "apt-get" not in line]
    return "\n".join(kept).replace(".venv/bin/", "")


@contextmanager
def background(commands: str, place: Path, variables: dict[str, str], ready: str) -> Iterator[None]:
    """Commands that run until Ctrl-C, once they have said ``ready``."""
    log = place / "background.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=place, env=variables, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + LIMIT_S
        while ready not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
        assert process.poll() is None, log.read_text()
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):  # the whole group, as a terminal does it
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)


@pytest.mark.parametrize(
    ("page", "broker"), [("README.md", "server.local"), ("docs/five-minutes.md", "LAPTOP.local")], ids=str
)
def test_a_server_and_a_device_answer_as_the_page_says(
    page: str, broker: str, fresh_install: FreshInstall, tmp_path: Path
) -> None:
    """Pictures stand in the camera's place."""
    place, port = fresh_install.copy(tmp_path / "cachenet"), free_port()

    def here(commands: str) -> str:
        assert "camera:0" in commands and f"mqtt://{broker}" in commands
        return commands.replace("camera:0", "models/zoo/cifar10-sample").replace(broker, f"127.0.0.1:{port}")

    server = {**fresh_install.variables(tmp_path, "cloud"), "CACHENET_PORT": str(port)}
    device = fresh_install.variables(tmp_path)
    with background(followed(page, "--listen 0.0.0.0"), place, server, "serving cifar10"):
        if page == "docs/five-minutes.md":
            said = run(here(followed(page, "edge-agent doctor camera:0")), place, device)
            assert "problem" not in said
            assert re.search(r"^ok +server ", said, re.M)
        run(here(followed(page, "--output answers.jsonl")), place, device)
    assert (place / "answers.jsonl").read_text().count('"label"') == 10


def test_a_server_without_containers_is_deployed_as_the_page_says(fresh_install: FreshInstall, tmp_path: Path) -> None:
    place, port = fresh_install.copy(tmp_path / "cachenet"), free_port()
    # As it is shipped but for the port and, where tests are run by root, the one who may read a test's directory.
    configuration = place / "docker/mosquitto.conf"
    configuration.write_text(configuration.read_text().replace("8883", str(port)) + "user root\n")
    variables = fresh_install.variables(tmp_path, "cloud")
    commands = followed("docs/deploy.md", "cloud-server provision cam1 cam2").replace("8883", str(port))
    assert f"localhost:{port}" in commands
    commands = commands.replace("--metrics 9100", f"--metrics {free_port()}")
    with background(commands, place, variables, "serving cifar10"):
        assert (place / "deployment/devices/cam1/agent.toml").exists()
        later = followed("docs/deploy.md", "provision --remove cam2")
        run(later.replace("provision", f"provision --broker localhost:{port}"), place, variables)
        assert not (place / "deployment/devices/cam2").exists()
        assert (place / "deployment/devices/cam3").exists()


# What the pages must have, so that the above is all there is.


def test_every_block_is_tested_or_says_why_not() -> None:
    assert SINGLE
    for block in BLOCKS:
        assert block.tested or (block.mark == "no test" and block.note), f"{block} has no mark"


def test_no_command_of_a_page_escapes_these_tests_by_being_indented() -> None:
    for page in PAGES:
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
            assert not _INDENTED.match(line), f"{page.name}:{number}: put commands between fences"


def test_every_install_is_pinned_and_every_test_names_an_extra_that_its_page_or_the_readme_installs() -> None:
    shown: dict[str, set[str]] = {}
    for block in BLOCKS:
        assert block.commands.count("pip install") == len(block.installs()), f"{block}: pip install without the pins"
        shown.setdefault(block.page, set()).update(block.installs())
    for block in SINGLE:
        extra = block.note or ""
        assert extra in EXTRAS
        assert extra in shown[block.page] | shown["README.md"], f"{block} needs {extra!r}"


def test_blocks_are_read_as_meant() -> None:
    text = """# Title
<!-- test: sim -->
```console
$ echo one \\
    two
one two
$ true
```

<!-- no test: takes an hour -->

```sh
make demo   # all of it
```

```sh
unmarked
```

```python
print("not a command")
```
"""
    assert blocks("p", text) == [
        Block("p", 4, "test", "sim", "echo one \\\n    two\ntrue"),
        Block("p", 13, "no test", "takes an hour", "make demo   # all of it\n"),
        Block("p", 17, None, None, "unmarked\n"),
    ]
