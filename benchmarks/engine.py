"""A stand-in for a container engine: builds docker/Dockerfile and runs docker/compose.yaml without one.

A stage is an overlay over the stage before. The first is over this machine's root file system, so Python, Debian and
mosquitto are the host's. A service is a process in an image with a read-only root, as a user without capabilities, on
the host's network. Mount namespaces need root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dockerfile
import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"


@dataclass(frozen=True)
class Image:
    """The image of a stage of a Dockerfile; ``layers``: directories, the topmost first."""

    layers: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    place: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()


class Engine:
    """A stand-in for a container engine, with its files in ``scratch``."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._made = 0
        self._stages = stages(DOCKER / "Dockerfile")
        self._built: dict[str, Image] = {}
        self.running: list[subprocess.Popen[bytes]] = []

    def base(self) -> Image:
        """In place of python:3.11-slim: this machine, with its Python as ``python``."""
        layer = self._new("base")
        interpreter = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        python = layer / "usr/local/bin/python"
        python.parent.mkdir(parents=True)
        # Through a symbolic link, Python would look for its library in the wrong place.
        python.write_text(f'#!/bin/sh\nexec {interpreter} "$@"\n')
        python.chmod(0o755)
        image = Image((layer,), {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"})
        # In root's home other users could not read it.
        directories = " ".join(str(above) for above in interpreter.resolve().parents if above != Path("/"))
        return self.layer(image, ["chmod", "a+rx", *directories.split()])

    def build(self, target: str) -> Image:
        """The image of a stage, built once."""
        if target not in self._built:
            steps = self._stages.get(target)
            if steps is None:  # no stage: an image of a registry
                self._built[target] = self.base()
            else:
                image = self.build(steps[0].value[0])
                for step in steps[1:]:
                    image = self._step(image, step)
                self._built[target] = image
        return self._built[target]

    def _step(self, image: Image, step: Any) -> Image:
        value = step.value
        if step.cmd == "WORKDIR":
            return replace(self.layer(image, ["install", "-d", value[0]]), place=value[0])
        if step.cmd == "RUN":
            return self.layer(image, list(value) if step.json else ["sh", "-c", value[0]])
        if step.cmd == "COPY":
            return self._copy(image, value[:-1], value[-1], step.flags)
        if step.cmd == "ENV":
            pairs = dict(zip(value[::2], value[1::2], strict=True))
            known = dict(image.environment)
            for name, text in pairs.items():
                known[name] = re.sub(r"\$(\w+)", lambda match: image.environment.get(match[1], ""), text)
            return replace(image, environment=known)
        if step.cmd == "USER":
            return replace(image, user=value[0])
        if step.cmd == "HEALTHCHECK":
            return replace(image, health=value[1:])
        if step.cmd == "ENTRYPOINT":
            return replace(image, entrypoint=value)
        if step.cmd == "CMD":
            return replace(image, command=value)
        if step.cmd == "EXPOSE":
            return image
        raise SystemExit(f"deploy: unknown instruction {step.cmd}")

    def _copy(self, image: Image, sources: tuple[str, ...], to: str, flags: tuple[str, ...]) -> Image:
        layer = self._new("copy")
        target = layer / os.path.join(image.place, to).lstrip("/")  # noqa: PTH118 - an absolute path replaces
        if flags:  # --from, the only flag in use
            mounted, there = self._overlay(self.build(flags[0].removeprefix("--from=")), self._new("from"))
            target.mkdir(parents=True)
            script = f"{mounted}; cp -a {there}{sources[0]}/. {target}"
            subprocess.run(["unshare", "--mount", "sh", "-ec", script], check=True)
            return replace(image, layers=(layer, *image.layers))
        for name in sources:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "zoo")
                shutil.copytree(ROOT / name, target, ignore=ignored, dirs_exist_ok=True)
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
        return replace(image, layers=(layer, *image.layers))

    def put(self, image: Image, source: Path, at: str) -> Image:
        """``image`` with a copy of a directory at ``at``, without files that no release has."""
        layer = self._new("put")
        ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "zoo", "*.egg-info")
        shutil.copytree(source, layer / at.lstrip("/"), ignore=ignored)
        return replace(image, layers=(layer, *image.layers))

    def read(self, image: Image, command: list[str]) -> list[str]:
        """Output lines of a command in an image."""
        output = self.layer(image, ["sh", "-c", '"$@" > /output', "sh", *command]).layers[0] / "output"
        return output.read_text().splitlines()

    def layer(self, image: Image, command: list[str]) -> Image:
        """Run a command in an image; the files that it writes are a new layer."""
        layer = self._new("run")
        done = subprocess.run(
            self._inside(image, layer, image.environment | _outside(), "0:0", command, {}, []),
            stdout=sys.stderr, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"deploy: {' '.join(command)} ended with {done.returncode}")
        return replace(image, layers=(layer, *image.layers))

    def start(
        self, image: Image, service: dict[str, Any], environment: dict[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a service of compose.yaml."""
        command = [*service.get("entrypoint", image.entrypoint), *service.get("command", image.command)]
        started = self.execute(image, service, environment, command, log)
        self.running.append(started)
        return started

    def execute(
        self, image: Image, service: dict[str, Any], environment: dict[str, str], command: list[str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a command with the settings of a service."""
        known = image.environment | service.get("environment", {}) | environment
        volumes = {}
        for volume in service["volumes"]:
            source, target = volume.removesuffix(":ro").split(":")
            volumes[target] = (DOCKER / source).resolve()
        there = replace(image, place=service.get("working_dir", image.place))
        tmpfs = [entry.split(":")[0] for entry in service["tmpfs"]]
        full = self._inside(there, self._new("service"), known, service["user"], command, volumes, tmpfs)
        with log.open("ab") as out:
            return subprocess.Popen(full, stdout=out, stderr=out, start_new_session=True)

    def stop(self) -> None:
        """End all services."""
        for process in reversed(self.running):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _inside(
        self,
        image: Image,
        layer: Path,
        environment: dict[str, str],
        user: str,
        command: list[str],
        volumes: dict[str, Path],
        tmpfs: list[str],
    ) -> list[str]:
        mounted, there = self._overlay(image, layer)
        hosts = self._scratch / "hosts"
        hosts.write_text("127.0.0.1 localhost broker\n")
        script = [mounted]
        script += [f"mount --rbind /{name} {there}/{name}" for name in ("proc", "dev")]
        uid, gid = user.split(":")
        free = f"--reuid {uid} --regid {gid} --clear-groups"
        if uid != "0":  # a service, no build step
            script += [
                f"install -d {there}{place}"
                for place in (*volumes, *tmpfs)
                if not Path(volumes.get(place, "/")).is_file()
            ]
            script += [f"touch {there}{place}" for place, source in volumes.items() if source.is_file()]
            script += [f"mount -o remount,ro {there}", f"mount --bind {hosts} {there}/etc/hosts"]
            script += [f"mount -t tmpfs -o uid={uid},gid={gid} tmpfs {there}{place}" for place in tmpfs]
            script += [f"mount --bind {source} {there}{place}" for place, source in volumes.items()]
            free += " --no-new-privs --bounding-set=-all --inh-caps=-all"
        script.append(f'exec chroot {there} setpriv {free} env -i "$@"')
        variables = [f"{name}={value}" for name, value in environment.items()]
        inner = ["sh", "-c", 'cd "$0" && exec "$@"', image.place, *command]
        return ["unshare", "--mount", "sh", "-ec", "\n".join(script), "sh", *variables, *inner]

    def _overlay(self, image: Image, layer: Path) -> tuple[str, Path]:
        """A command that mounts an image with ``layer`` on top, and the mount point."""
        work, there = self._new("work"), self._new("root")
        lower = ":".join(map(str, (*image.layers, "/")))
        return f"mount -t overlay overlay -o lowerdir={lower},upperdir={layer},workdir={work} {there}", there

    def _new(self, what: str) -> Path:
        self._made += 1
        made = self._scratch / f"{self._made:03}-{what}"
        made.mkdir(mode=0o755)
        return made


def stages(file: Path) -> dict[str, list[Any]]:
    """Instructions of a Dockerfile by stage, read by Docker's parser."""
    found: dict[str, list[Any]] = {}
    for step in dockerfile.parse_file(str(file)):
        if step.cmd == "FROM":
            found[step.value[2]] = []
        list(found.values())[-1].append(step)
    return found


def services(environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Services of docker/compose.yaml with variables filled in. Raises ``SystemExit`` for a missing variable."""

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match[1], match[2], match[3]
        if name not in environment and kind != ":-":
            raise SystemExit(f"deploy: compose.yaml wants {name}: {rest or 'it is not set'}")
        return environment.get(name, rest or "")

    text = re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", fill, (DOCKER / "compose.yaml").read_text())
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


def _outside() -> dict[str, str]:
    """Variables of this machine's access to a package index, which are no part of an image."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
