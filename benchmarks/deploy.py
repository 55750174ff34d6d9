"""How soon a deployment answers: the images' own commands and the services as they are composed, without a container
engine.

    sudo python -m benchmarks.deploy

Reads docker/Dockerfile and docker/compose.yaml and does what they say in an engine's stead: a stage is an overlay over
the stage before (the first over this machine's own root file system, so that Python, Debian and mosquitto are the
host's), and a service is a process in it with a root that is read-only, as a user without any capability. Needs root
for its mount namespaces, mosquitto, ports 8883, 9100 and 9101 of the loopback interface, 2 GB of memory for the
layers, and a package index.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dockerfile
import yaml

from benchmarks.miss_path import camera_pictures
from shared import protocol
from shared.bundle import Bundle
from shared.image import crop, encode
from shared.link import Address, Link, Message
from simulator.processes import answers as listening

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DEVICE, OWNER = "cam1", "10001"
_PATIENCE_S = 120.0
_METRICS = {"server": 9100, "agent": 9101}


@dataclass(frozen=True)
class Image:
    """What a stage of a Dockerfile comes to. ``layers``: directories, the topmost first."""

    layers: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    place: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()


class Engine:
    """Stands in for a container engine."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._made = 0
        self._stages = stages(DOCKER / "Dockerfile")
        self._built: dict[str, Image] = {}
        self.running: list[subprocess.Popen[bytes]] = []

    def base(self) -> Image:
        """In the place of python:3.11-slim: this machine, with its Python called ``python`` for everybody."""
        layer = self._new("base")
        interpreter = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        python = layer / "usr/local/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(
            f'#!/bin/sh\nexec {interpreter} "$@"\n'
        )  # by a link it would take another's library for its own
        python.chmod(0o755)
        image = Image((layer,), {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"})
        # Where it lies in root's home nobody else would find it.
        opened = " ".join(str(above) for above in interpreter.resolve().parents if above != Path("/"))
        return self.layer(image, ["chmod", "a+rx", *opened.split()])

    def build(self, target: str) -> Image:
        """The image of a stage, and of those that it needs, each once."""
        if target not in self._built:
            steps = self._stages.get(target)
            if steps is None:  # no stage: an image from elsewhere
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
        raise SystemExit(f"deploy: does not know {step.cmd}")

    def _copy(self, image: Image, sources: tuple[str, ...], to: str, flags: tuple[str, ...]) -> Image:
        layer = self._new("copy")
        target = layer / os.path.join(image.place, to).lstrip("/")  # noqa: PTH118 - an absolute one wins
        if flags:  # --from: the only one there is here
            mounted, there = self._overlay(self.build(flags[0].removeprefix("--from=")), self._new("seen"))
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

    def layer(self, image: Image, command: list[str]) -> Image:
        """Run a command in an image; what it has written is another layer."""
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
        """A service as it is composed."""
        command = [*service.get("entrypoint", image.entrypoint), *service.get("command", image.command)]
        started = self.execute(image, service, environment, command, log)
        self.running.append(started)
        return started

    def execute(
        self, image: Image, service: dict[str, Any], environment: dict[str, str], command: list[str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Any command in a service's place."""
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
        if uid != "0":  # a service, and not a step of a build
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
        said = [f"{name}={value}" for name, value in environment.items()]
        inner = ["sh", "-c", 'cd "$0" && exec "$@"', image.place, *command]
        return ["unshare", "--mount", "sh", "-ec", "\n".join(script), "sh", *said, *inner]

    def _overlay(self, image: Image, layer: Path) -> tuple[str, Path]:
        """A command that mounts an image with another layer on top, and where."""
        work, there = self._new("work"), self._new("root")
        lower = ":".join(map(str, (*image.layers, "/")))
        return f"mount -t overlay overlay -o lowerdir={lower},upperdir={layer},workdir={work} {there}", there

    def _new(self, what: str) -> Path:
        self._made += 1
        made = self._scratch / f"{self._made:03}-{what}"
        made.mkdir(mode=0o755)
        return made


def stages(file: Path) -> dict[str, list[Any]]:
    """A Dockerfile's instructions by the names of its stages, as Docker's own parser reads them."""
    found: dict[str, list[Any]] = {}
    for step in dockerfile.parse_file(str(file)):
        if step.cmd == "FROM":
            found[step.value[2]] = []
        list(found.values())[-1].append(step)
    return found


def services(environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """docker/compose.yaml with its variables filled in. Raises ``SystemExit`` for one that must be set and is not."""

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match[1], match[2], match[3]
        if name not in environment and kind != ":-":
            raise SystemExit(f"deploy: compose.yaml wants {name}: {rest or 'it is not set'}")
        return environment.get(name, rest or "")

    text = re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", fill, (DOCKER / "compose.yaml").read_text())
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


def _outside() -> dict[str, str]:
    """How this machine reaches a package index, which an image need not know."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}


def measure(rounds: int, cuda: bool) -> dict[str, object]:
    """The figures as the command prints them, seconds."""
    if os.geteuid() != 0 or any(listening(port) for port in (8883, *_METRICS.values())):
        raise SystemExit("deploy: run it as root, with ports 8883, 9100 and 9101 free; its first lines say why")
    with ExitStack() as stack:
        # A file system of its own, because layers of an overlay may not lie within one another; gone with this process.
        scratch = Path(tempfile.mkdtemp(dir="/var/tmp"))
        stack.callback(scratch.rmdir)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", scratch], check=True)
        stack.callback(lambda: subprocess.run(["umount", "--lazy", scratch], check=True))
        engine = Engine(scratch)
        stack.callback(engine.stop)
        begun = time.monotonic()
        image = {target: engine.build(target) for target in ("server", "agent")}
        built = time.monotonic() - begun
        out = scratch / "deployment"
        _provision(out)
        composed = services({"CACHENET_UID": OWNER, "CACHENET_GID": OWNER, "CACHENET_DEVICE": DEVICE})
        for one in composed.values():
            one["volumes"] = [volume.replace("./deployment", str(out)) for volume in one["volumes"]]
        composed["agent"]["volumes"].append(f"{ROOT / 'models/zoo/cifar10-sample'}:/pictures")
        log = {service: scratch / f"{service}.log" for service in composed}
        try:
            figures = {"build_s": built} | _run(engine, image, composed, out, log, rounds)
        except SystemExit:
            for service, path in log.items():
                if path.exists():
                    print(f"--- {service}\n{path.read_text()}", file=sys.stderr)
            raise
        return figures | ({"cuda_lacks": _lacking(engine)} if cuda else {})


def _lacking(engine: Engine) -> list[str]:
    """The libraries that ONNX Runtime's CUDA provider does not find in its image; the driver's is the host's."""
    image = engine.build("server-cuda")
    found = "/lacking"
    listing = (
        f"ldd /opt/cachenet/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so > {found}"
    )
    listed = engine.layer(image, ["sh", "-c", listing]).layers[0] / found.lstrip("/")
    return [line.split()[0] for line in listed.read_text().splitlines() if "not found" in line]


def _run(
    engine: Engine,
    image: dict[str, Image],
    composed: dict[str, dict[str, Any]],
    out: Path,
    log: dict[str, Path],
    rounds: int,
) -> dict[str, object]:
    engine.start(engine.base(), composed["broker"], {}, log["broker"])
    _until(lambda: listening(8883), "the broker listens")
    with _asker(out) as ask:
        begun = time.monotonic()
        engine.start(image["server"], composed["server"], {}, log["server"])
        _until(lambda: ask(1, 0.05) == 1, "the server answers")
        answering = time.monotonic() - begun
        _until(lambda: _health(_METRICS["server"]) == 200, "the server is well")
        healthy = time.monotonic() - begun
        busy = time.monotonic()
        answered = ask(rounds, 60.0)
        busy = time.monotonic() - busy
    # On one loopback interface two services cannot have one port.
    own = {"CACHENET_SOURCE": "/pictures", "CACHENET_FPS": "1", "CACHENET_METRICS": f"127.0.0.1:{_METRICS['agent']}"}
    begun = time.monotonic()
    engine.start(image["agent"], composed["agent"], own, log["agent"])
    _until(lambda: _frames(_METRICS["agent"]) > 0, "the agent answers")
    agent = time.monotonic() - begun
    checks = {}
    for service, port in _METRICS.items():
        command = [word.replace("9100", str(port)) for word in image[service].health]
        checks[service] = engine.execute(image[service], composed[service], {}, command, log[service]).wait(30)
    return {
        "server_answering_s": answering,
        "server_healthy_s": healthy,
        "agent_answering_s": agent,
        "health_checks": checks,
        "questions_answered": f"{answered} of {rounds}",
        "answers_per_s": answered / busy,
    }


def _provision(out: Path) -> None:
    from cloud_server.cli import app

    app([*("provision", DEVICE, "--out", str(out), "--host", "127.0.0.1")], standalone_mode=False)
    (out / "store").mkdir()
    subprocess.run(["chown", "-R", f"{OWNER}:{OWNER}", out], check=True)


@contextmanager
def _asker(out: Path) -> Iterator[Callable[[int, float], int]]:
    """Ask so many questions, 16 at a time, as the device; how many were answered in so many seconds."""
    bundle = Bundle(ROOT / "models/zoo/cifar10")
    name = bundle.manifest.only("full")
    views = [encode(crop(picture, bundle.manifest.models[name].input))[1] for picture in camera_pictures(0)]
    heard: list[Message] = []
    kit = out / "devices" / DEVICE
    where = Address("127.0.0.1", 8883, True, DEVICE, (kit / "password").read_text().strip(), kit / "ca.crt")
    link = Link(where, f"cachenet-{DEVICE}", [(protocol.topic(DEVICE, "answer"), 0)], heard.append)

    def ask(count: int, seconds: float) -> int:
        heard.clear()
        end = time.monotonic() + seconds
        sent = 0
        while len(heard) < count and time.monotonic() < end:
            if sent < count and sent - len(heard) < 16:
                request = protocol.Request(name, "image/png", str(sent).encode(), 60_000)
                link.publish(
                    protocol.topic(DEVICE, "infer", name), views[sent % len(views)], content="image/png",
                    correlation=request.correlation, properties=request.properties(),
                )  # fmt: skip
                sent += 1
            else:
                time.sleep(0.0005)
        return sum(
            isinstance(protocol.decode(message.payload, protocol.Answer | protocol.Refusal), protocol.Answer)  # type: ignore[arg-type]
            for message in heard
        )

    link.start()
    if trouble := link.settle(5.0):
        raise SystemExit(f"deploy: {trouble}")
    try:
        yield ask
    finally:
        link.stop()


def _health(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _frames(port: int) -> float:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            said = answer.read().decode()
    except OSError:
        return 0.0
    return sum(float(line.split()[-1]) for line in said.splitlines() if line.startswith("cachenet_frames_total"))


def _until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"deploy: waited in vain until {what}")
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="questions to find out how many a second are answered")
    parser.add_argument("--cuda", action="store_true", help="build the CUDA image too, and see what its libraries lack")
    asked = parser.parse_args()
    if "DEPLOY_APART" not in os.environ and os.geteuid() == 0:
        apart = [sys.executable, "-m", "benchmarks.deploy", *sys.argv[1:]]
        os.execvpe("unshare", ["unshare", "--mount", *apart], os.environ | {"DEPLOY_APART": "1"})
    print(json.dumps(measure(asked.rounds, asked.cuda)))


if __name__ == "__main__":
    main()
