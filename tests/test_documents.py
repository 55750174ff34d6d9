"""README.md, CONTRIBUTING.md and docs/: their commands run as a new user runs them, and their text keeps the rules.

``tests.documents`` explains the marks of blocks, ``tests.installed`` the environments. Pages whose blocks depend on one
another have a test of their own here; ``test_mqtt_doc`` tests docs/mqtt.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cachenet.cloud_server.settings import Settings as ServerSettings
from cachenet.edge_agent.settings import Settings as AgentSettings
from cachenet.shared.bundle import zoo
from cachenet.shared.command import config
from tests.broker import free_port
from tests.documents import INSTALL, PAGES, PROSE_PAGES, ROOT, Block, anchors, blocks, code_spans, links, prose, read
from tests.installed import EXTRAS, FreshInstall, fresh_install

__all__ = ["fresh_install"]

LIMIT_S = 900
#: Limits of README.md. Words are counted outside comments, tables included.
README_LINES, README_WORDS = 100, 700
#: Largest length of a line of prose, and of a line of commands.
PROSE_WIDTH, COMMAND_WIDTH = 120, 80
BLOCKS = [block for page in PAGES for block in read(page)]
_INDENTED = re.compile(r" {4}(edge-agent|cloud-server|model-builder|simulator|pip|python3?|git|mosquitto\S*) ")
#: In the order in which the environments are made, so that the large ones are made meanwhile.
SINGLE = sorted(
    (block for block in BLOCKS if block.tested and block.page != "docs/mqtt.md"),
    key=lambda block: EXTRAS.index(block.note) if block.note in EXTRAS else 0,
)


def run(commands: str, directory: Path, variables: dict[str, str]) -> str:
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=directory,
        env=variables,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert result.returncode == 0, f"{commands}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result.stdout


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
def test_installed_programs_need_no_clone_and_import_nothing_of_the_working_directory(
    extra: str, commands: str, fresh_install: FreshInstall, occupied: Path
) -> None:
    run(commands, occupied, fresh_install.variables(occupied, extra))


@pytest.mark.parametrize("path", ["", "."])
def test_all_four_commands_start_in_a_directory_with_packages_of_the_same_names(
    path: str, fresh_install: FreshInstall, occupied: Path
) -> None:
    """Also if PYTHONPATH puts that directory first."""
    variables = fresh_install.variables(occupied) | ({"PYTHONPATH": path} if path else {})
    printed = run("\n".join(f"{command} --version" for command in COMMANDS), occupied, variables)
    assert [line.split()[0] for line in printed.splitlines()] == list(COMMANDS)
    library = "import cachenet, numpy\nwith cachenet.load('cifar10') as device: device(numpy.zeros((8, 8, 3), 'u1'))"
    run(f'python -c "{library}"', occupied, variables)


def test_one_import_package_is_installed(fresh_install: FreshInstall, occupied: Path) -> None:
    packed = {name.partition("/")[0] for name in ZipFile(fresh_install.wheel).namelist()}
    assert {name for name in packed if not name.endswith(".dist-info")} == {"cachenet"}
    for name in PACKAGES:
        found = f"import importlib.util, sys; del sys.path[0]; print(importlib.util.find_spec('{name}'))"
        assert run(f'python -c "{found}"', occupied, fresh_install.variables(occupied)).strip() == "None"


def test_a_checkout_without_symbolic_links_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "cachenet").mkdir()
    for name in PACKAGES:
        (tmp_path / "cachenet" / name).write_text(f"../{name}")
    command = [sys.executable, "setup.py", "bdist_wheel"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "git config core.symlinks true" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "shared"])
def test_a_package_runs_by_its_directory_in_a_clone(package: str, fresh_install: FreshInstall) -> None:
    assert "Usage" in run(
        f"python -m {package} --help", fresh_install.clone, fresh_install.variables(fresh_install.clone)
    )


def test_the_wheel_has_every_file_of_the_zoo(fresh_install: FreshInstall) -> None:
    """The wheel stays under 35 MB."""
    packed = set(ZipFile(fresh_install.wheel).namelist())
    files = (path.relative_to(zoo.DIRECTORY) for path in zoo.DIRECTORY.rglob("*") if path.is_file())
    shipped = {f"cachenet/models/zoo/{path}" for path in files}
    assert shipped
    assert shipped <= packed
    assert fresh_install.wheel.stat().st_size < 35e6


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_environment_has_no_package_that_its_extra_does_not_ask_for(extra: str, fresh_install: FreshInstall) -> None:
    """The base install has no torch, ONNX or matplotlib, and nothing for signatures."""
    signing = {"cryptography", "tuf"}
    expected = {"": set(), "cloud": {"iotcore", *signing}, "sim": {"iotcore", "onnx", "matplotlib", "simpy", *signing}}
    expected["build"] = {"onnx", "matplotlib", "torch", *signing}
    listed = run("pip list --format freeze", fresh_install.clone, fresh_install.variables(fresh_install.clone, extra))
    names = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert names & {"iotcore", "onnx", "matplotlib", "simpy", "torch", *signing} == expected[extra]


def test_an_sbom_lists_every_package_of_an_environment_with_its_pin(
    fresh_install: FreshInstall, tmp_path: Path
) -> None:
    """The command of ``make sbom`` writes the same bytes twice, valid in CycloneDX's schema."""
    command = re.search(r"^SBOM := (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert command is not None and command[1].endswith("--validate")
    variables = fresh_install.variables(tmp_path, "cloud")
    written = []
    for name in ("one.json", "other.json --no-validate"):  # to validate takes seconds
        make = f"{sysconfig.get_path('scripts')}/{command[1]} --output-file {tmp_path}/{name}"
        run(f"{make} {fresh_install.commands('cloud')}/python", ROOT, variables)
        written.append((tmp_path / name.split()[0]).read_bytes())
    assert written[0] == written[1]
    components = {canonicalize_name(one["name"]): one["version"] for one in json.loads(written[0])["components"]}
    listed = run("pip list --format freeze", fresh_install.clone, variables).split()
    installed = dict(line.split("==") for line in listed if not line.startswith("cachenet=="))
    assert components == {canonicalize_name(name): version for name, version in installed.items()}
    requirements = map(Requirement, re.findall(r"^[\w.-]+==.+", (ROOT / "constraints.txt").read_text("utf-8"), re.M))
    pins = {
        canonicalize_name(one.name): str(one.specifier)
        for one in requirements
        if one.marker is None or one.marker.evaluate()
    }
    unpinned = {"pip", "setuptools"}  # the environment's own tools
    assert {name: pins[name] for name in components.keys() - unpinned} == {
        name: f"=={version}" for name, version in components.items() if name not in unpinned
    }


# Pages whose commands keep running while the next block runs.


def commands_of(page: str, part: str) -> str:
    """Commands of the one block of ``page`` that contains ``part``, without the lines that prepare the machine.

    ``tests.installed`` makes the environments, so ``.venv/bin/`` is removed.
    """
    (commands,) = [block.commands for block in BLOCKS if block.page == page and part in block.commands]
    lines = [line for line in commands.splitlines() if not INSTALL.search(line)]
    lines = [line for line in lines if not re.search(r"-m venv|apt-get|systemctl", line)]
    return "\n".join(lines).replace(".venv/bin/", "")


@contextmanager
def background(commands: str, directory: Path, variables: dict[str, str], ready: str) -> Iterator[None]:
    """Run ``commands`` from the moment that they print ``ready`` until the end of the context."""
    log = directory / "background.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=directory, env=variables, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + LIMIT_S
        while ready not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
        assert process.poll() is None, log.read_text()
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):  # the whole process group, as a terminal does
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
    """Frames of the shipped clip replace the camera."""
    clone, port = fresh_install.copy(tmp_path / "cachenet"), free_port()

    def local(commands: str) -> str:
        assert "camera:0" in commands and f"mqtt://{broker}" in commands
        return commands.replace("camera:0", "models/zoo/campus-clip/campus.mp4").replace(broker, f"127.0.0.1:{port}")

    server = {**fresh_install.variables(tmp_path, "cloud"), "CACHENET_PORT": str(port)}
    device = {**fresh_install.variables(tmp_path), "CACHENET_FRAMES": "30"}
    with background(commands_of(page, "--listen 0.0.0.0"), clone, server, "serving campus"):
        if page == "docs/five-minutes.md":
            printed = run(local(commands_of(page, "edge-agent doctor camera:0")), clone, device)
            assert "problem" not in printed
            assert re.search(r"^ok +server ", printed, re.M)
        run(local(commands_of(page, "--output answers.jsonl")), clone, device)
    assert (clone / "answers.jsonl").read_text().count('"objects"') == 30


def test_a_server_without_containers_is_deployed_as_the_page_says(fresh_install: FreshInstall, tmp_path: Path) -> None:
    clone, port = fresh_install.copy(tmp_path / "cachenet"), free_port()
    # The shipped file with another port and, for tests that root runs, the user that may read the directory.
    configuration = clone / "docker/mosquitto.conf"
    configuration.write_text(configuration.read_text().replace("8883", str(port)) + "user root\n")
    variables = fresh_install.variables(tmp_path, "cloud")
    commands = commands_of("docs/deploy.md", "cloud-server provision cam1 cam2 --host").replace("8883", str(port))
    assert f"localhost:{port}" in commands
    commands = commands.replace("--metrics 9100", f"--metrics {free_port()}")
    with background(commands, clone, variables, "serving cifar10"):
        assert (clone / "deployment/devices/cam1/agent.toml").exists()
        later = commands_of("docs/deploy.md", "provision --remove cam2")
        run(later.replace("provision", f"provision --broker localhost:{port}"), clone, variables)
        assert not (clone / "deployment/devices/cam2").exists()
        assert (clone / "deployment/devices/cam3").exists()


# Rules that make the tests above complete.


def test_every_block_is_tested_or_has_a_reason() -> None:
    assert SINGLE
    for block in BLOCKS:
        assert block.tested or (block.mark == "no test" and block.note), f"{block} has no mark"


def test_commands_are_fenced_and_not_indented() -> None:
    for page in PAGES:
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
            assert not _INDENTED.match(line), f"{page.name}:{number}: put commands between fences"


def test_installs_are_pinned_and_each_tested_block_names_an_extra_that_its_page_or_the_readme_installs() -> None:
    installed: dict[str, set[str]] = {}
    for block in BLOCKS:
        assert block.commands.count("pip install") == len(block.installs()), f"{block}: pip install without the pins"
        installed.setdefault(block.page, set()).update(block.installs())
    for block in SINGLE:
        extra = block.note or ""
        assert extra in EXTRAS
        assert extra in installed[block.page] | installed["README.md"], f"{block} needs {extra!r}"


def test_blocks_are_parsed_with_mark_note_and_continuation_lines() -> None:
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


# Rules of the text.


def test_the_readme_fits_its_limits() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    words = [word for word in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).split() if re.search(r"\w", word)]
    assert len(text.splitlines()) <= README_LINES
    assert len(words) <= README_WORDS


@pytest.mark.parametrize("page", PROSE_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_prose_and_of_commands_are_short(page: Path) -> None:
    text = page.read_text("utf-8")
    assert [number for number, line in prose(text) if len(line) > PROSE_WIDTH] == []
    for block in blocks(page.name, text):
        assert [line for line in block.commands.splitlines() if len(line) > COMMAND_WIDTH] == [], block


@pytest.mark.parametrize("page", PROSE_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_modules_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    rooms = r"(?:tests|docs|docker|benchmarks|shared|edge_agent|cloud_server|models|simulator)/"
    paths = [span.split()[0] for span in code_spans(text) if re.match(rooms + r"[\w/.-]+$", span.split()[0])]
    paths += re.findall(r"\btests/[\w/]+\.py\b", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    modules = re.findall(r"-m benchmarks\.(\w+)", text)
    files = {path.stem if path.stem != "__main__" else path.parent.name for path in (ROOT / "benchmarks").rglob("*.py")}
    missing += [name for name in modules if name not in files]
    for target in links(text):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        linked = (page.parent / file) if file else page
        if not linked.exists() or (anchor and anchor not in anchors(linked.read_text("utf-8"))):
            missing.append(target)
    assert missing == []


def test_every_setting_has_a_row_in_the_configuration_page() -> None:
    """Each row has the setting's default, and a flag only if the command has one."""
    from cachenet.models.build_config import BuildSettings

    text = (ROOT / "docs/configuration.md").read_text("utf-8")
    kinds = {"edge-agent": AgentSettings, "cloud-server": ServerSettings, "model-builder build": BuildSettings}
    for title, settings in kinds.items():
        section = text.partition(f"## Settings of {title}\n")[2].partition("\n## ")[0]
        cells = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
        rows = [(row[1].strip(" `"), row[2].strip(), row[3].strip()) for row in cells]
        assert [name for name, _, _ in rows if name not in settings.__struct_fields__] == []
        assert [name for name in settings.__struct_fields__ if name not in {row[0] for row in rows}] == []
        flags = {name for name, _, flag in rows if flag.startswith("yes")}
        assert flags == set(config.flags_of(settings)) - {"source"}
        for name, stated, _ in rows:
            default, value = config.default_of(settings, name)[0], stated.strip("`")
            if re.fullmatch(r"\d+(\.\d+)?", default):
                assert float(value) == float(default), name
            elif re.fullmatch(r"`\w+`", stated):
                assert {"false": "off"}.get(value, value) == default, name
