"""Start times of a deployment: the images' commands and the composed services, without a container engine.

    sudo python -m benchmarks.deploy

Builds the images and runs the services with ``benchmarks.engine`` in place of an engine. Then installs the agent twice
with docker/device/install.sh, and removes it. Needs root for mount namespaces, mosquitto, ports 8883, 9100 and 9101 of
the loopback interface, 2 GB of memory for the layers (12 with --cuda), and a package index.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.engine import ROOT, Engine, Image, services
from cachenet.models.data import sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.image import Picture, crop, encode
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from cachenet.simulator.world.processes import is_listening as listening

#: Names of the devices.
DEVICE, SECOND = "cam1", "cam2"
#: User and group of the services.
OWNER = "10001"
PICTURES = ROOT / "models/zoo/cifar10-sample"
#: Longest wait for an event, seconds.
_TIMEOUT_S = 120.0
#: Port of each program's metrics.
_METRICS = {"server": 9100, "agent": 9101}


def measure(rounds: int, cuda: bool) -> dict[str, object]:
    """The measures as the command prints them."""
    if os.geteuid() != 0 or any(listening(port) for port in (8883, *_METRICS.values())):
        raise SystemExit("deploy: run it as root, with ports 8883, 9100 and 9101 free; its first lines say why")
    with ExitStack() as stack:
        # On a separate file system: layers of an overlay may not be nested.
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
        composed["agent"]["volumes"].append(f"{PICTURES}:/pictures")
        log = {service: scratch / f"{service}.log" for service in composed}
        try:
            found = {"build_s": built} | _run(engine, image, composed, out, log, rounds)
        except SystemExit:
            for service, path in log.items():
                if path.exists():
                    print(f"--- {service}\n{path.read_text()}", file=sys.stderr)
            raise
        found |= _device(engine, out)
        return found | ({"cuda_lacks": _lacking(engine)} if cuda else {})


def _device(engine: Engine, out: Path) -> dict[str, object]:
    """Duration of an installation, files that a second one changes, and files that the removal leaves."""
    base = engine.base()
    for source, at in ((ROOT, "/clone"), (out / "devices" / SECOND, "/credentials"), (PICTURES, "/pictures")):
        base = engine.put(base, source, at)
    install = ["/clone/docker/device/install.sh", "--credentials", "/credentials", "--source", "/pictures"]
    begun = time.monotonic()
    once = engine.layer(base, install)
    took = time.monotonic() - begun
    again = engine.layer(once, install)
    unit = (ROOT / "docker/device/cachenet-agent.service").read_text()
    values = dict(line.split("=", 1) for line in unit.splitlines() if re.match("(ExecStart|Environment)=", line))
    agent = ["runuser", "-u", "cachenet", "--", "env", *values["Environment"].split()]
    program, settings = values["ExecStart"].removesuffix(" --no-view").split(" run ")
    engine.layer(
        again, [*agent, "CACHENET_METRICS=", program, "doctor", *settings.split()]
    )  # a failure ends this program
    run = [*agent, "CACHENET_METRICS=", *values["ExecStart"].split(), "--json"]
    summary = json.loads(engine.read(again, run)[-1])
    removed = engine.layer(again, [install[0], "--uninstall", "--purge"])
    return {
        "install_s": took,
        "installed_frames": summary["frames"],
        "installed_again_changes": sorted(_files(engine, again) ^ _files(engine, once)),
        "uninstalled_leaves": sorted(_files(engine, removed) ^ _files(engine, base)),
    }


def _files(engine: Engine, image: Image) -> set[str]:
    """Files in the directories of an installation, with their digests."""
    places = ["/etc/cachenet", "/etc/systemd/system", "/etc/passwd", "/etc/group", "/opt/cachenet", "/var/lib/cachenet"]
    find = f"find {' '.join(places)} -name __pycache__ -prune -o -type f -exec sha256sum {{}} + 2> /dev/null || true"
    return set(engine.read(image, ["sh", "-c", find]))


def _lacking(engine: Engine) -> list[str]:
    """Libraries that ONNX Runtime's CUDA provider does not find in its image; the host provides the driver's."""
    image = engine.build("server-cuda")
    library = "/opt/cachenet/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so"
    return [line.split()[0] for line in engine.read(image, ["ldd", library]) if "not found" in line]


def _run(
    engine: Engine,
    image: dict[str, Image],
    composed: dict[str, dict[str, Any]],
    out: Path,
    log: dict[str, Path],
    rounds: int,
) -> dict[str, object]:
    broker = engine.start(engine.base(), composed["broker"], {}, log["broker"])
    _until(lambda: listening(8883), "the broker listens")
    with _asker(out) as ask:
        begun = time.monotonic()
        engine.start(image["server"], composed["server"], {}, log["server"])
        _until(lambda: ask(1, 0.05) == 1, "the server answers")
        answering = time.monotonic() - begun
        _until(lambda: _health(_METRICS["server"]) == 200, "the server is healthy")
        healthy = time.monotonic() - begun
        busy, spent = time.monotonic(), _processor_s(broker.pid)
        answered = ask(rounds, 180.0)
        busy, spent = time.monotonic() - busy, _processor_s(broker.pid) - spent
    # Two services on one loopback interface need different ports.
    environment = {
        "CACHENET_SOURCE": "/pictures",
        "CACHENET_FPS": "1",
        "CACHENET_METRICS": f"127.0.0.1:{_METRICS['agent']}",
    }
    begun = time.monotonic()
    engine.start(image["agent"], composed["agent"], environment, log["agent"])
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
        "broker_us_per_question": 1e6 * spent / answered,
    }


def _provision(out: Path) -> None:
    from cachenet.cloud_server.cli import app

    app([*("provision", DEVICE, SECOND, "--out", str(out), "--host", "127.0.0.1")], standalone_mode=False)
    (out / "store").mkdir()
    subprocess.run(["chown", "-R", f"{OWNER}:{OWNER}", out], check=True)


@contextmanager
def _asker(out: Path) -> Iterator[Callable[[int, float], int]]:
    """A function that sends requests as the device, 16 at a time.

    Its arguments are the number of requests and the longest time, seconds; it returns the number of answers.
    """
    bundle = Bundle(ROOT / "models/zoo/cifar10")
    name = bundle.manifest.only("full")
    views = [encode(crop(picture, bundle.manifest.models[name].input))[1] for picture in _camera_pictures()]
    answered_requests: set[bytes] = set()
    runs = itertools.count()
    secrets = out / "devices" / DEVICE
    where = Address("127.0.0.1", 8883, True, DEVICE, (secrets / "password").read_text().strip(), secrets / "ca.crt")

    def receive(message: Message) -> None:
        reply = protocol.decode(message.payload, protocol.Answer | protocol.Rejection)  # type: ignore[arg-type]
        if isinstance(reply, protocol.Answer):
            answered_requests.add(message.correlation or b"")

    link = MqttConnection(where, f"cachenet-{DEVICE}", [(protocol.topic(DEVICE, "answer"), 0)], receive)

    def ask(count: int, seconds: float) -> int:
        run, end = next(runs), time.monotonic() + seconds
        asked: list[bytes] = []
        while (answered := len(answered_requests.intersection(asked))) < count and time.monotonic() < end:
            if len(asked) < count and len(asked) - answered < 16:
                request = protocol.Request(name, "image/png", f"{run}-{len(asked)}".encode(), 60_000)
                link.publish(
                    protocol.topic(DEVICE, "infer", name), views[len(asked) % len(views)], content="image/png",
                    correlation=request.correlation, properties=request.properties(),
                )  # fmt: skip
                asked.append(request.correlation)
            else:
                time.sleep(0.001)
        return answered

    link.start()
    if error := link.settle(5.0):
        raise SystemExit(f"deploy: {error}")
    try:
        yield ask
    finally:
        link.stop()


def _camera_pictures() -> list[Picture]:
    """Pictures of a camera's stream."""
    split = sample.load()
    render = streams.renderer(streams.schedule("camera", split.labels, 0, 600), split.images)
    return [render(index) for index in range(0, 600, 10)]


def _processor_s(process: int) -> float:
    """Processor time of a process, seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
            text = answer.read().decode()
    except OSError:
        return 0.0
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("cachenet_frames_total"))


def _until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _TIMEOUT_S
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"deploy: timeout before {what}")
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="requests that measure the throughput (default: 1000)")
    parser.add_argument("--cuda", action="store_true", help="build the CUDA image, too, and list its missing libraries")
    chosen = parser.parse_args()
    if "DEPLOY_NAMESPACE" not in os.environ and os.geteuid() == 0:
        command = [sys.executable, "-m", "benchmarks.deploy", *sys.argv[1:]]
        os.execvpe("unshare", ["unshare", "--mount", *command], os.environ | {"DEPLOY_NAMESPACE": "1"})
    print(json.dumps(measure(chosen.rounds, chosen.cuda)))


if __name__ == "__main__":
    main()
