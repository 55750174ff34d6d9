"""A place that no submodel covers: the server trains one for it while the device runs, with the real programs in real
processes, and the device's own lines tell what that was worth."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from cachenet.edge_agent.outputs.report import Line
from cachenet.models.certify import recorded, replay
from cachenet.models.data import cifar10, streams
from cachenet.models.data.cifar10 import Split
from cachenet.models.data.scenes import SCENES, UNSEEN
from cachenet.models.train import cifar10_full
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.media import recording
from cachenet.simulator.report.live import start_cloud, start_link
from cachenet.simulator.report.picture import learning
from cachenet.simulator.report.view import Tail
from cachenet.simulator.world import links
from cachenet.simulator.world.processes import Process, Processes

_LOCAL = ("frames", "submodels", "base")
#: What updated submodels are called.
_UPDATE = "update-"
#: The full model's look at the frames to train with, once; and the training.
_PREPARE_S, _TRAIN_S = 1800.0, 600.0
_LOOK_EVERY_S = 0.1


class NothingNew(Exception):
    """The run ended without an update in use; the message says how far it came."""


@dataclass(frozen=True)
class Options:
    """``scene``: number of the scene that the camera looks at. ``frames``: that are compared, before and after."""

    scene: int = UNSEEN[0]
    frames: int = 1500
    fps: float = 30.0
    seed: int = 0
    link: str = "wifi"
    bundle: Path = zoo.DIRECTORY / "cifar10"
    out: Path = Path("build")


@dataclass(frozen=True)
class Times:
    """Seconds since the epoch: the device first asked, the training began and ended, and the update first answered."""

    missed: float
    begun: float
    ended: float
    used: float


@dataclass(frozen=True)
class Outcome:
    """``local``: share of frames answered by the device, before the training and with the update. ``accuracy``: against
    ground truth. ``cloud_ms``: 99th percentile of the answers from the cloud, before the training and while it ran."""

    used_after_s: float
    trained_in_s: float
    local: tuple[float, float]
    accuracy: tuple[float, float]
    cloud_ms: tuple[float, float]
    update: str


@dataclass(frozen=True)
class Worth:
    """What the update is worth in replays of streams of other pictures of the place, the same ones without and with
    it: ``local`` share of frames, ``disagreement`` with the full model. The run's own before and after are of different
    frames."""

    streams: int
    frames: int
    first_seed: int
    local: tuple[float, float]
    disagreement: tuple[float, float]


def learn(options: Options, console: Console) -> Outcome:
    """Run it, print the table, write ``learning.json`` and ``learning.png`` into ``options.out``.

    Raises ``UnknownLink``, ``BundleError``, ``StreamError``, ``DatasetError``, ``NothingNew`` and ``Failed``.
    """
    links.load(options.link)
    bundle = Bundle(options.bundle)
    labels = [bundle.manifest.labels[label] for label in SCENES[options.scene].classes]
    data = cifar10.load()
    work = options.out / "learning"
    frames = _lay_out(data.train, cifar10.cache_directory() / "cifar-10-train", console)
    held = _lay_out(data.held, cifar10.cache_directory() / "cifar-10-held", console)
    length = int((_TRAIN_S / 2) * options.fps) + 3 * options.frames
    sights, others = halves(data.test)  # what the server has trained with must not be what it is judged by
    shown = _record(options, sights, length, work / f"sights-{options.scene}-{options.seed}-{length}", console)
    console.print(f"The camera sees {', '.join(labels)}, scene {options.scene}, which no submodel was made for.")
    with Processes(work / "logs") as processes:
        flags = ("--specialise", "--data", str(frames), "--held-out", str(held), "--work", str(work / "updates"))
        _forget(work / "updates", bundle)
        broker, server = start_cloud(processes, bundle, *flags)
        with console.status("The full model looks at the frames to train with (minutes, once) ..."):
            processes.wait(server, lambda: "ready to train" in _log(server), _PREPARE_S, "ready to train")
        lines, times = _run(options, shown, work, broker, server, processes, console)
    outcome = measure(lines, times, options.frames)
    console.print(table(outcome), crop=False)
    console.print(sentence(outcome))
    updated = Bundle(next((work / "updates").glob("*/bundle.json")).parent)
    with console.status("Other streams of the place, without and with the update ..."):
        worth = replayed(updated, options.scene, others)
    console.print(
        f"On {worth.streams} streams of other pictures of {', '.join(labels)}, replayed without and with it, the "
        f"device answers {worth.local[0]:.1%} and {worth.local[1]:.1%}, and {worth.disagreement[0]:.2%} and "
        f"{worth.disagreement[1]:.2%} of all answers disagree with the full model."
    )
    setting = {"scene": options.scene, "labels": labels, "stream": "session", "seed": options.seed}
    figures = {"setting": setting | {"link": options.link, "fps": options.fps}, **msgspec.to_builtins(outcome)}
    figures["replayed"] = msgspec.to_builtins(worth)
    (options.out / "learning.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
    learning(options.out / "learning.png", lines, times, outcome, labels)
    console.print(f"Written: {options.out / 'learning.json'} and {options.out / 'learning.png'}")
    return outcome


def measure(lines: Sequence[Line], times: Times, frames: int) -> Outcome:
    """What the lines of the run, in order, say. The last ``frames`` before the training are compared with the last of
    the run."""
    before = [line for line in lines if line.time < times.begun][-frames:]
    during = [line for line in lines if times.begun <= line.time < times.ended]
    after = [line for line in lines if line.time >= times.used][-frames:]
    update = next(line.model for line in lines if line.model.startswith(_UPDATE))
    return Outcome(
        used_after_s=times.used - times.missed,
        trained_in_s=times.ended - times.begun,
        local=(_share(before), _share(after)),
        accuracy=(_accuracy(before), _accuracy(after)),
        cloud_ms=(_slowest(before), _slowest(during)),
        update=update,
    )


def _share(lines: Sequence[Line]) -> float:
    return float(np.mean([line.level in _LOCAL for line in lines]))


def _accuracy(lines: Sequence[Line]) -> float:
    return float(np.mean([line.label == line.truth for line in lines]))


def _slowest(lines: Sequence[Line]) -> float:
    asked = [line.latency_ms for line in lines if line.level not in _LOCAL]
    return float(np.percentile(asked, 99)) if asked else float("nan")


def table(outcome: Outcome) -> Table:
    """Before and after, for people."""
    made = Table("", "before", "after", title="A submodel for this place")
    made.add_row("answered on the device", *(f"{share:.1%}" for share in outcome.local))
    made.add_row("accuracy", *(f"{share:.1%}" for share in outcome.accuracy))
    made.add_row(
        "slowest answer of the cloud in 100 (before, while training)", *(f"{ms:.0f} ms" for ms in outcome.cloud_ms)
    )
    return made


def sentence(outcome: Outcome) -> str:
    return f"{outcome.used_after_s:.0f} s after the device first asked, {outcome.update} answered."


def halves(split: Split) -> tuple[Split, Split]:
    """Every other picture, and the others."""
    first, second = (np.arange(start, len(split), 2) for start in (0, 1))
    return split.take(first), split.take(second)


def replayed(bundle: Bundle, place: int, split: Split, first_seed: int = 7000, count: int = 10) -> Worth:
    """``bundle``, with updates, on ``count`` streams of 1,000 frames of a scene out of ``split``, and without them."""
    frames, family = 1000, replay.family(bundle.manifest)
    without = replace(family, submodels=tuple(name for name in family.submodels if not name.startswith(_UPDATE)))
    plans = [streams.plan("session", split.labels, first_seed + n, frames, None, [place]) for n in range(count)]
    shown = np.unique(np.concatenate([plan.source for plan in plans]))  # no other picture needs to be looked at
    plans = [replace(plan, source=np.searchsorted(shown, plan.source)) for plan in plans]
    films = recorded.record(plans, split.take(shown), recorded.opened(bundle))
    local, disagreement = [], []
    for own in (without, family):
        runs = [replay.run(film, own, replay.cascade(film, own)) for film in films]
        full = [film.trace(own).labels for film in films]
        local.append(float(np.mean([1 - run.full_answered.mean() for run in runs])))
        disagreement.append(
            float(np.mean([disagreements(run.labels, of).mean() for run, of in zip(runs, full, strict=True)]))
        )
    return Worth(count, frames, first_seed, (local[0], local[1]), (disagreement[0], disagreement[1]))


def _lay_out(split: Split, directory: Path, console: Console) -> Path:
    if not directory.exists():
        console.print(f"Writing {len(split)} pictures to {directory}, once.")
        building = directory.with_name(directory.name + ".building")
        cifar10_full.write_pictures(split, building)
        building.rename(directory)
    return directory


def _record(options: Options, test: Split, length: int, directory: Path, console: Console) -> Path:
    if not directory.exists():
        console.print(f"Recording {length} frames of stream session, scene {options.scene}, seed {options.seed}.")
        plan = streams.plan("session", test.labels, options.seed, length, None, [options.scene])
        building = directory.with_name(directory.name + ".building")
        streams.record(plan, test.images, building, cifar10.LABELS)
        building.rename(directory)
    recording.read(directory)
    return directory


def _forget(updates: Path, bundle: Bundle) -> None:
    """An update of an earlier run would answer from the start."""
    shutil.rmtree(updates / bundle.version[:16], ignore_errors=True)


def _run(
    options: Options,
    shown: Path,
    work: Path,
    broker: int,
    server: Process,
    processes: Processes,
    console: Console,
) -> tuple[list[Line], Times]:
    """Until enough frames have been answered with the update. Raises ``NothingNew``."""
    answers = work / "answers.jsonl"
    answers.unlink(missing_ok=True)
    _, port = start_link("learning", options.link, options.seed, broker, processes)
    store = work / "store"
    shutil.rmtree(store, ignore_errors=True)
    arguments = ["run", str(shown), "--fps", str(options.fps), "--device", "camera", "--store", str(store)]
    arguments += ["--broker", f"mqtt://127.0.0.1:{port}", "--output", str(answers)]
    agent = processes.start("agent", "edge_agent", *arguments)
    tail, lines = Tail(answers), list[Line]()
    begun = ended = 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("the device asks", total=None)
        while agent.running:
            processes.check(but=agent)
            lines += tail.read()
            log = _log(server)
            if not begun and "training for" in log:
                begun = time.time()
                progress.update(task, description="the server trains")
            if begun and not ended and "an update for" in log:
                ended = time.time()
                progress.update(task, description="the device pulls and uses it")
            if begun and not ended and "no update for" in log:
                raise NothingNew(f"what was trained was not proven better: {log.strip().splitlines()[-2]}")
            used = next((line.time for line in lines if line.model.startswith(_UPDATE)), None)
            if used is not None:
                with_it = sum(line.time >= used for line in lines)
                progress.update(task, description="frames with the update", completed=with_it, total=options.frames)
                if with_it >= options.frames:
                    missed = next(line.time for line in lines if line.level not in _LOCAL)
                    return lines, Times(missed, begun, ended, used)
            time.sleep(_LOOK_EVERY_S)
    where = "not pulled" if ended else "not trained in time" if begun else "never wanted: the place is covered already"
    raise NothingNew(f"after {len(lines)} frames an update was {where}; its log is in {server.log}")


def _log(process: Process) -> str:
    return process.log.read_text(errors="replace")


def scene(number: int) -> int:
    """``number``, if it is a scene that the bundle was not made for. Raises ``ValueError``."""
    if number not in UNSEEN:
        raise ValueError(
            f"scene {number} is none that the bundle was not made for; those are {', '.join(map(str, UNSEEN))}"
        )
    return number
