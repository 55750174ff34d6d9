"""The project as a new user has it: a clone, and fresh virtual environments into which it is installed as the README
says. They take time and 2 GB, so each is made once a session, and what every extra brings is installed once: an
environment with an extra begins as a copy of the one without.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.documents import ROOT

__all__ = ["FreshInstall", "fresh_install"]

EXTRAS = ("", "cloud", "sim", "build")
_INSTALL_S = 900


class FreshInstall:
    """``clone``: the files of this working tree that git has or would take, without its history."""

    def __init__(self, directory: Path, pool: ThreadPoolExecutor) -> None:
        self._directory = directory
        self.clone = directory / "cachenet"
        listed = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file() or (ROOT / name).is_symlink():
                (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.clone / name, follow_symlinks=False)
        # An earlier version, installed from the same clone, has left its packages where setuptools builds.
        (self.clone / "build/lib/shared").mkdir(parents=True)
        (self.clone / "build/lib/shared/__init__.py").touch()
        # What `pip install .` does first is done once: build the wheel of the tree.
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), "."]
        _run(pip, self.clone)
        for leftover in (self.clone / "build", self.clone / "cachenet.egg-info"):
            shutil.rmtree(leftover)
        (self.wheel,) = directory.glob("*.whl")
        self._base = pool.submit(self._make)
        self._made: dict[str, Future[Path]] = {extra: pool.submit(self._add, extra) for extra in EXTRAS}

    def commands(self, extra: str = "") -> Path:
        """Where the commands of the environment with this extra are."""
        return self._made[extra].result()

    def copy(self, place: Path) -> Path:
        """Another clone, to work in."""
        shutil.copytree(self.clone, place, symlinks=True)
        return place

    def variables(self, home: Path, extra: str = "") -> dict[str, str]:
        """The variables of a shell in which the environment is active: nothing of this process's own environment."""
        names = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SSL_CERT_FILE", "TMPDIR")
        found = {name: os.environ[name] for name in names if name in os.environ}
        # Debian puts mosquitto where only root's PATH looks.
        path = os.pathsep.join((str(self.commands(extra)), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"))
        return {**found, "PATH": path, "HOME": str(home)}

    def _place(self, extra: str) -> Path:
        return self._directory / f"environment-{extra or 'base'}"

    def _make(self) -> None:
        """The environment without extras, and its copies."""
        base = self._place("")
        _run([sys.executable, "-m", "venv", str(base)], self.clone)
        self._install("")
        for extra in filter(None, EXTRAS):
            copy = self._place(extra)
            shutil.copytree(base, copy, symlinks=True, copy_function=os.link)
            for script in (copy / "bin").iterdir():
                if not script.is_symlink():
                    moved = script.read_bytes().replace(os.fsencode(base), os.fsencode(copy))
                    mode = script.stat().st_mode
                    script.unlink()
                    script.write_bytes(moved)
                    script.chmod(mode)

    def _add(self, extra: str) -> Path:
        self._base.result()
        if extra:
            self._install(extra)
        return self._place(extra) / "bin"

    def _install(self, extra: str) -> None:
        what = f"{self.wheel}[{extra}]" if extra else str(self.wheel)
        # Modules are compiled when they are used first: of torch these are few.
        variables = {**os.environ, "PIP_NO_COMPILE": "1"}
        variables.pop("PYTHONPATH", None)
        pip = str(self._place(extra) / "bin/pip")
        _run([pip, "install", "--quiet", "-c", "constraints.txt", what], self.clone, variables)


@pytest.fixture(scope="session")
def fresh_install() -> Iterator[FreshInstall]:
    directory = tempfile.mkdtemp(prefix="cachenet-fresh-")
    with ThreadPoolExecutor(2) as pool:
        yield FreshInstall(Path(directory), pool)
        pool.shutdown(cancel_futures=True)
    # A minute on a slow disk, which nobody need wait for.
    subprocess.Popen(["rm", "-rf", directory], start_new_session=True)


def _run(command: list[str], place: Path, variables: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=place, env=variables, capture_output=True, text=True, timeout=_INSTALL_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout
