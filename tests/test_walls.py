"""Imports between packages, no import circles, and the help of every command."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
INSTALLED = ("shared", "edge_agent", "cloud_server", "models", "simulator")
PACKAGES = (*(f"cachenet.{name}" for name in INSTALLED), "benchmarks")
COMMANDS = {
    "cachenet.edge_agent": "edge-agent",
    "cachenet.cloud_server": "cloud-server",
    "cachenet.models": "model-builder",
    "cachenet.simulator": "simulator",
}

#: Packages of the project that each package may import, beside itself.
ALLOWED: dict[str, tuple[str, ...]] = {
    "cachenet.shared": (),
    "cachenet.edge_agent": ("cachenet.shared",),
    "cachenet.cloud_server": ("cachenet.shared",),
    "cachenet.models": ("cachenet.shared",),
    "cachenet.simulator": PACKAGES,
    "benchmarks": PACKAGES,
}
#: Packages that a device must not need.
HEAVY = ("torch", "onnx", "matplotlib", "iotcore")

#: The decision core, which may import NumPy, msgspec and these modules of the standard library only.
CORE = "cachenet.shared.cascade"
CORE_MAY = (
    *("__future__", "abc", "collections", "dataclasses", "enum", "functools", "itertools", "math", "random", "typing"),
    *("msgspec", "numpy", "cachenet.shared.cascade"),
)
#: Functions of these modules that do input or output.
CORE_NEVER_USES = {
    *("open", "print", "input", "exec", "eval", "__import__"),
    *("np.load", "np.save", "np.savez", "np.fromfile", "np.memmap", "np.loadtxt", "np.savetxt", "np.genfromtxt"),
}
#: Random generators with an explicit state; all other functions of these modules use a hidden one.
SEEDED = {"np.random.default_rng", "np.random.Generator", "random.Random"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package.replace(".", "/")).rglob("*.py"))


@cache
def syntax(path: Path) -> list[ast.AST]:
    """All nodes of the module's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def imports(path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, anywhere in it, by full name; of ``from a import b`` both a and a.b."""
    package = path.relative_to(ROOT).parent.parts
    for node in syntax(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*above, node.module or "")).rstrip(".")
            yield from (f"{module}.{alias.name}" for alias in node.names)


#: An import of a package without ``cachenet.`` in the text of a program.
UNPREFIXED_IMPORT = re.compile(
    rf"(?:^|;)\s*(?:import\s+({'|'.join(INSTALLED)})\b|from\s+({'|'.join(INSTALLED)})[\w.]*\s+import\b)", re.M
)


def unprefixed_imports(path: Path) -> list[str]:
    """Imports of the packages without ``cachenet.``: statements, ``import_module`` and texts of programs."""
    found = [module for module in imports(path) if inside(module, INSTALLED)]
    for node in syntax(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [match[0].strip("; \n") for match in UNPREFIXED_IMPORT.finditer(node.value)]
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(("import_module", "importorskip", "__import__")):
            texts = (one.value for one in node.args[:1] if isinstance(one, ast.Constant))
            found += [text for text in texts if inside(str(text), INSTALLED)]
    return found


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_packages_are_imported_from_cachenet_alone(package: str) -> None:
    """Names such as ``shared`` exist in a clone, but not in an installation."""
    crossed = [f"{path.relative_to(ROOT)}: {found}" for path in modules(package) for found in unprefixed_imports(path)]
    assert modules(package)
    assert not crossed


def test_imports_without_the_prefix_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    program = tmp_path / "program.py"
    source = (
        "import @shared.command, cachenet.models\n"
        "def later():\n    from @edge_agent import cli\n"
        "importlib.import_module('@models' '.cli')\n"
        "run('import sys; import @cloud_server.cli', 'from @simulator.report import page', 'from models of a bundle')\n"
    )
    program.write_text(source.replace("@", ""))
    statements = [f"from {'simulator'}.report import", f"import {'cloud_server'}"]
    assert set(unprefixed_imports(program)) == {"shared.command", "edge_agent.cli", "models.cli", *statements}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Strongly connected components with more than one module."""

    def reachable(start: str) -> set[str]:
        found, left = set[str](), [start]
        while left:
            for module in graph[left.pop()] - found:
                found.add(module)
                left.append(module)
        return found

    reach = {module: reachable(module) for module in graph}
    found = (frozenset(other for other in reach[module] if module in reach[other]) for module in graph)
    return {one for one in found if len(one) > 1}


#: What tests of other rooms take from benchmarks: a network camera, and what a container is started with.
TEST_MAY_IMPORT = ("benchmarks.rtsp", "benchmarks.engine")


def test_only_the_tests_of_benchmarks_import_benchmarks() -> None:
    crossed = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules("tests")
        for module in imports(path)
        if "benchmarks" not in path.relative_to(ROOT).parts
        and module != "benchmarks"
        and inside(module, ("benchmarks",))
        and not inside(module, TEST_MAY_IMPORT)
    ]
    assert not crossed


def test_modules_do_not_import_one_another_in_a_circle() -> None:
    """Imports within functions and for type checkers count too."""
    paths = {module_name(path): path for package in PACKAGES for path in modules(package)}
    graph = {
        name: {
            module if module in paths else module.rpartition(".")[0]
            for module in imports(path)
            if module in paths or module.rpartition(".")[0] in paths
        }
        - {name}
        for name, path in paths.items()
    }
    assert sum(map(len, graph.values())) > len(graph), "the imports of the project are found"
    assert not circles(graph)


def test_a_circle_of_imports_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set[str]()}
    assert circles(graph) == {frozenset("abc")}


def inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    allowed = (package, *ALLOWED[package])
    crossed = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules(package)
        for module in imports(path)
        if inside(module, (*PACKAGES, "tests")) and not inside(module, allowed)
    ]
    assert not crossed


@pytest.mark.parametrize("package", ["cachenet.shared", "cachenet.edge_agent"])
def test_a_device_needs_nothing_heavy(package: str) -> None:
    crossed = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules(package)
        for module in imports(path)
        if inside(module, HEAVY)
    ]
    assert not crossed


def dotted(node: ast.AST) -> str:
    """The name that ``node`` spells, such as ``np.random.rand``; empty if it is no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def draws_from_hidden_state(name: str) -> bool:
    drawn = name.startswith("random.") or (name.startswith("np.random.") and name.count(".") == 2)
    return drawn and ".".join(name.split(".")[: 3 if name.startswith("np.") else 2]) not in SEEDED


def test_the_core_builds_on_numpy_msgspec_and_the_standard_library_alone() -> None:
    crossed = [
        f"{path.name} imports {module}"
        for path in modules(CORE)
        for module in imports(path)
        if not inside(module, CORE_MAY)
    ]
    assert modules(CORE)
    assert not crossed


def test_the_core_does_no_input_or_output_and_draws_from_no_hidden_state() -> None:
    crossed = []
    for path in modules(CORE):
        for node in syntax(path):
            name = dotted(node)
            if name in CORE_NEVER_USES or draws_from_hidden_state(name):
                crossed.append(f"{path.name} uses {name}")
    assert not crossed


def test_the_core_loads_nothing_but_numpy_and_msgspec() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules(CORE) if path.stem != "__init__"
    ]
    done = run("-c", f"import sys, {', '.join(names)}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    outside = ("cv2", "onnxruntime", *HEAVY, *PACKAGES)
    crossed = [name for name in done.stdout.split() if inside(name, outside) and not inside(name, (CORE,))]
    assert crossed == ["cachenet.shared"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    plain = {**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_device_loads_nothing_heavy() -> None:
    done = run("-c", "import sys, cachenet.edge_agent.cli; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    never = (*HEAVY, *PACKAGES[2:], "cryptography", "tuf")
    assert not [name for name in done.stdout.split() if inside(name, never)]


@pytest.mark.parametrize("package", COMMANDS)
def test_every_package_is_a_command_and_explains_itself(package: str) -> None:
    done = run("-m", package, "--help")
    assert done.returncode == 0, done.stderr
    assert "example" in done.stdout.lower()
    assert COMMANDS[package] in done.stdout


def subcommands(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for child, inner in getattr(command, "commands", {}).items():
        yield (*name, child)
        yield from subcommands(inner, (*name, child))


@pytest.mark.parametrize("package", COMMANDS)
def test_every_subcommand_explains_itself(package: str) -> None:
    module = importlib.import_module(f"{package}.cli")
    app = next(value for value in vars(module).values() if isinstance(value, typer.Typer))
    names = list(subcommands(typer.main.get_command(app)))
    for name in names:
        done = CliRunner().invoke(app, [*name, "--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
        assert done.exit_code == 0, done.output
        assert "example" in done.output.lower(), f"{COMMANDS[package]} {' '.join(name)} --help shows no example"
        assert f"{COMMANDS[package]} {' '.join(name)}" in done.output


@pytest.mark.parametrize("package", COMMANDS)
def test_a_bad_option_is_one_clear_refusal(package: str) -> None:
    done = run("-m", package, "--no-such-option")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
