"""Candidates: the local models that may go into a bundle, trained or given, made light, measured, and chosen by what
they are worth.

For each size there is a general model, and of it a submodel for each partition is made. The general ones go in; of the
submodels those that add most to what is answered, for their bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch
from rich.progress import Progress

from cachenet.models.build_config import DEFAULT_SHARES, BuildConfig, key
from cachenet.models.certify import calibrate, recorded
from cachenet.models.data.cifar10 import Images
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.export import cost, quantise
from cachenet.models.export.classifier import PRESETS, ClassifierError, served
from cachenet.models.export.export import export
from cachenet.models.export.metadata import written
from cachenet.models.report import scores
from cachenet.models.report.remarks import SLOW
from cachenet.models.train import clusters, partitions, teacher_runtime
from cachenet.models.train.distill import Logits, Teacher, train_base, train_submodel
from cachenet.models.train.networks import BASE, ResNet, Shape, macs, sized
from cachenet.models.train.partitions import Method, Partition, WorkingSet
from cachenet.models.train.training import Recipe
from cachenet.shared.bundle.manifest import Model, digest, file_digest
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import Session, first_line
from cachenet.shared.inference.image import Input, Size, blank

#: Codes for each label, and how many there are at the most.
_FINE, _MOST_CODES = 4, 256
#: Of a network with a smaller share of the full model's multiply-adds than this, stages have one block: to dispatch its
#: operators takes a small device as long as their arithmetic.
SMALL, _SHALLOW = 1 / 30, (1, 1, 1)
#: Learning rate of submodels that are refined; a small one has to forget other labels to learn its own better, and a
#: larger one would forget for nothing.
RATE, SMALL_RATE = 0.05, 0.1
#: That of general models, for batches of so many frames; it goes with the root of their size.
_GENERAL_RATE, _BATCH = 0.2, 128
#: Normalised colours farther from zero than this are no input to train with.
_FARTHEST = 10.0
#: Timed runs of each model; and how often the base model's share may be halved.
_RUNS, _HALVINGS = 50, 6
#: Multiply-adds under which a model spends its time on other things: dispatching some twenty operators.
_CHEAP = 2e6
#: INT8 takes the place of float16 where it takes at most so much of the time, answers as much and agrees with the full
#: model as often, both to a hundredth: what a weak model answers at little risk may be nothing either way.
_FASTER, _AS_MUCH = 0.9, 0.01
#: Risk at which precisions are compared.
_COMPARED = 0.01


@dataclass(frozen=True)
class TrainedModel:
    """``size``: its multiply-adds beside the full model's, for people; ``shape``: its network. ``part``: what it is
    for, found by ``method``; None of a general model. ``shape`` is None of a base model that was given."""

    name: str
    size: str
    shape: Shape | None
    part: Partition | None = None
    method: Method | None = None


@dataclass(frozen=True)
class Local:
    """A model that was made: what it sees, and what it costs."""

    input: Input
    parameters: int
    macs: int


@dataclass(frozen=True)
class Choice:
    """``models``: the full model, the general ones and the submodels that were kept. ``found``: about the choice, for
    people."""

    models: dict[str, Model]
    found: dict[str, str]


def propose(plan: BuildConfig, material: Dataset, likely: Sequence[WorkingSet]) -> list[TrainedModel]:
    """The general models, the base model first, and the submodels, in the sizes and by every method of the plan; the
    base model alone where it is given."""
    if material.base is not None:
        return [TrainedModel("base", "as given", None)]
    labels, sizes = material.classifier.labels, _sizes(plan.shares, material)
    special = _sizes(plan.special or plan.shares, material)
    first = next(iter(sizes))
    found = [TrainedModel("base" if size == first else f"general-{size}", size, shape) for size, shape in sizes.items()]
    for method in plan.methods:
        for place, part in enumerate(_partition(plan, material, likely, method), 1):
            words = "-".join(labels[label] for label in part.labels).lower()
            plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in words)
            name = f"{method[0]}{place:02}-{plain}"[:40].rstrip("-")
            found += [
                TrainedModel(name if size == first else f"{name}-{size}", size, shape, part, method)
                for size, shape in special.items()
            ]
    return found


def _sizes(shares: Sequence[float], material: Dataset) -> dict[str, Shape]:
    """The shapes by their sizes, in the order of ``shares``; shares that come to the same network are one."""
    classifier = material.classifier
    side = classifier.input.size
    full = max(1, cost.macs(classifier.graph, side))
    shapes = dict.fromkeys(shape(share, full, side, len(classifier.labels)) for share in shares)
    return {f"1in{full / macs(ResNet(shape), side):.3g}": shape for shape in shapes}


def shape(share: float, full: int, side: Size, classes: int) -> Shape:
    """The network of a ``share`` of the ``full`` model's multiply-adds."""
    return sized(int(share * full), side, classes, _SHALLOW if share < SMALL else BASE.blocks)


def quick_shares(plan: BuildConfig, material: Dataset, work: Path) -> tuple[float, ...]:
    """``plan.shares``; where these are the default and a base model is trained, the base model's share by time as well.
    It is raised until the model may do ``_CHEAP`` multiply-adds, for under these a model hardly gets quicker, and then
    halved until the model takes at most ``SLOW`` of the full model's time on this machine, or cannot get smaller. What
    was decided is kept in ``work``."""
    if material.base is not None or plan.shares != DEFAULT_SHARES:
        return plan.shares
    classifier, spec = material.classifier, own_input(material.classifier.input)
    kept = work / f"share-{key(digest(classifier.graph.SerializeToString(deterministic=True)), plan.shares)}.txt"
    if not kept.exists():
        full, [share] = max(1, cost.macs(classifier.graph, classifier.input.size)), plan.shares
        share = max(share, min(SLOW, _CHEAP / full))
        with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
            path = Path(directory, "full.onnx")
            path.write_bytes(served(classifier, {}).SerializeToString(deterministic=True))
            [whole] = cost.seconds([path], blank(classifier.input), _RUNS)
            tried: Shape | None = None
            for halved in [share / 2**times for times in range(_HALVINGS)]:
                found = shape(halved, full, spec.size, len(classifier.labels))
                if found == tried:
                    break
                tried, share = found, halved
                path = Path(directory, "base.onnx")
                export(ResNet(found).eval(), path, {})
                if cost.seconds([path], blank(spec), _RUNS)[0] <= SLOW * whole:
                    break
        atomic_files.write(kept, repr(share).encode())
    return (float(kept.read_text()),)


def own_input(spec: Input) -> Input:
    """How networks that are trained here see the frames of a full model of ``spec``: the same pictures, in colour, and
    normalised as a network can learn from."""
    mean, std = spec.mean, spec.std
    if spec.colour == "bgr":
        mean, std = mean[::-1], std[::-1]
    reach = max(max(middle, 255 - middle) / spread for middle, spread in zip(mean, std, strict=True))
    if spec.colour == "grey" or reach > _FARTHEST:
        mean, std = PRESETS["imagenet"].mean, PRESETS["imagenet"].std
    return msgspec.structs.replace(spec, mean=mean, std=std, colour="rgb")


def _partition(plan: BuildConfig, material: Dataset, likely: Sequence[WorkingSet], method: Method) -> list[Partition]:
    learn, classes = material.learn, len(material.classifier.labels)
    if not plan.submodels:
        return []
    if method == "experts":
        return partitions.by_experts(learn.embeddings, learn.answers, classes, plan.submodels, plan.seed)
    count = min(_MOST_CODES, _FINE * classes, len(learn) // 4)
    own = clusters.assign(learn.embeddings, clusters.fit(learn.embeddings, count, plan.seed))
    return partitions.by_codes(own, learn.answers, classes, likely, plan.submodels)


def make(
    plan: BuildConfig,
    material: Dataset,
    proposed: Sequence[TrainedModel],
    directory: Path,
    work: Path,
    progress: Progress,
) -> dict[str, Local]:
    """Put the full model and what is ``proposed`` into ``directory``; what they are, by name."""
    made: dict[str, Local] = {}

    def properties(name: str, input: Input) -> dict[str, str]:
        spec = msgspec.json.encode(input).decode()
        return {"bundle": plan.name, "labels": written(material.classifier.labels), "input": spec, "model": name}

    for name, one in {"full": material.classifier, "base": material.base}.items():
        if one is not None:
            graph = served(one, properties(name, one.input))
            atomic_files.write(_path(directory, name), graph.SerializeToString(deterministic=True))
            made[name] = Local(one.input, cost.parameters(one.graph), cost.macs(one.graph, one.input.size))
    if material.base is None:
        spec = own_input(material.classifier.input)
        for name, network in train(plan, material, proposed, _path(directory, "full"), work, progress).items():
            export(network.eval(), _path(directory, name), properties(name, spec))
            made[name] = Local(spec, network.parameters_count(), macs(network, spec.size))
    return made


def _path(directory: Path, name: str) -> Path:
    return directory / name / "1" / "model.onnx"


def train(
    plan: BuildConfig, material: Dataset, proposed: Sequence[TrainedModel], full: Path, work: Path, progress: Progress
) -> dict[str, ResNet]:
    """The networks by name, each taken from ``work`` where it is there already."""
    learn, tune, seen = material.learn, material.tune, material.classifier.input
    spec = own_input(seen)
    own = teacher_runtime.find(full, seen, tune, plan.views * len(learn), work)
    work = work / own.name

    def said(images: Images) -> Logits:
        return recorded.run(own.session, seen, recorded.as_pictures(images))

    teacher = Teacher(said, learn.images, plan.views, plan.seed, work, progress)
    early = plan.epochs // 4
    width, height = spec.size
    phases = ((early, (width * 3 // 4, height * 3 // 4)), (plan.epochs - early, spec.size))
    general = Recipe(
        phases=tuple(phase for phase in phases if phase[0]),
        rate=_GENERAL_RATE * (plan.batch / _BATCH) ** 0.5,
        batch=max(8, min(plan.batch, len(learn) // 8)),
        decay=1e-4,
    )
    batch = max(8, min(_BATCH, len(learn) // 8))
    refining = Recipe(phases=((plan.refining, spec.size),), rate=RATE, batch=batch, decay=1e-4)
    small = SMALL * cost.macs(material.classifier.graph, spec.size)
    networks: dict[str, ResNet] = {}
    of_size: dict[Shape, ResNet] = {}
    for one in proposed:
        assert one.shape is not None, "one that was given is not trained"
        origin = key(one.shape, plan.views, plan.epochs, plan.batch)
        if one.part is None:
            torch.manual_seed(plan.seed + 1)
            network = ResNet(one.shape)
            train_base(network, spec, teacher, general, tune.split, work / f"base-{origin}.pt", progress, one.name)
            of_size[one.shape] = network
        else:
            network = ResNet(one.shape)
            network.load_state_dict(of_size[one.shape].state_dict())
            held = (tune.images, tune.scores)
            rows = one.part.rows
            recipe = replace(refining, rate=SMALL_RATE) if macs(network, spec.size) < small else refining
            kept = work / f"{one.name}-{key(origin, recipe, digest(rows.tobytes()))}.pt"
            train_submodel(network, spec, teacher, recipe, rows, held, kept, progress, one.name)
        networks[one.name] = network
    return networks


def lighten(
    plan: BuildConfig, material: Dataset, made: Mapping[str, Local], directory: Path, work: Path, progress: Progress
) -> str:
    """Put INT8 in the place of float16, or of what was given, where the plan says so, or where it is better for the
    base model; what was found, for people. All local models are of one precision, so that none is chosen for another
    reason than its word. What was decided is kept in ``work``, for a machine does not measure the same twice. Raises
    ``ClassifierError`` if a base model that was given cannot be what the plan says."""
    heavy, spec = "float16" if material.base is None else "as given", made["base"].input
    if plan.precision == "float16":
        return heavy
    images = teacher_runtime.calibrating(spec, material.tune)

    def lighter(name: str) -> Path:
        path = _path(directory, name)
        quantised = quantise.int8(onnx.load(str(path)), images)
        atomic_files.write(path.with_suffix(".int8"), quantised.SerializeToString(deterministic=True))
        return path.with_suffix(".int8")

    before = _path(directory, "base")
    try:
        after = lighter("base")
        kept = work / f"precision-{key(plan.precision, file_digest(before), file_digest(after))}.txt"
        if not kept.exists():
            atomic_files.write(kept, _lighter(plan, material.tune, spec, before, after, images[:1], heavy).encode())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a stranger's graph, of which the quantiser makes what it can
        if material.base is None:
            raise
        if plan.precision == "int8":
            why = f"the base model cannot be put in INT8 ({first_line(error)}); leave out --precision"
            raise ClassifierError(why) from None
        before.with_suffix(".int8").unlink(missing_ok=True)
        return f"{heavy}; it cannot be put in INT8"
    if (decided := kept.read_text()).startswith(heavy):
        after.unlink()
        return decided
    for name in progress.track([name for name in made if name != "full"], description="eight bits"):
        light = after if name == "base" else lighter(name)
        light.replace(_path(directory, name))
    return decided


def _lighter(
    plan: BuildConfig,
    tune: LabelledFrames,
    spec: Input,
    before: Path,
    after: Path,
    image: npt.NDArray[np.float32],
    heavy: str,
) -> str:
    """Which precision it is to be, and why."""
    pictures, threads = recorded.as_pictures(tune.images), torch.get_num_threads()
    said = [recorded.run(Session(path, "cpu", threads), spec, pictures, tune.seen) for path in (before, after)]
    (was, agreed), (is_, agrees) = (
        (scores.coverage_at(_COMPARED, scores.doubts(own, 1.0)["probability"], right), float(right.mean()))
        for own in said
        for right in [own.argmax(1) == tune.answers]
    )
    cost_ = quantise.compare(before, after, image)
    better = cost_.time <= _FASTER and is_ >= was - _AS_MUCH and agrees >= agreed - _AS_MUCH
    return (
        f"{'int8' if better or plan.precision == 'int8' else heavy}; "
        f"int8 takes {cost_.time:.2f} of the time and {cost_.bytes:.2f} of the bytes, and answers "
        f"{is_:.1%} of frames at 1 % risk for {was:.1%}, and agrees on {agrees:.1%} for {agreed:.1%}"
    )


def choose(
    plan: BuildConfig,
    material: Dataset,
    proposed: Sequence[TrainedModel],
    made: Mapping[str, Local],
    likely: Sequence[WorkingSet],
    directory: Path,
    progress: Progress,
) -> Choice:
    """What each is worth. Submodels that add too little for their bytes are taken out of ``directory``."""
    paths, inputs = {name: _path(directory, name) for name in made}, {name: own.input for name, own in made.items()}
    classes = {one.name: one.part.labels for one in proposed if one.part is not None}
    temperatures, coverage = calibrate.measure(material.tune, inputs, "full", paths, classes, plan.seed, progress)

    general = [one.name for one in proposed if one.part is None]
    special = [one for one in proposed if one.part is not None]
    before = np.array([coverage[name] for name in general])
    megabytes = np.array([paths[one.name].stat().st_size / 1e6 for one in special])
    table = np.array([coverage[one.name] for one in special]).reshape(len(special), before.shape[1])

    def kept_of(some: Sequence[int]) -> list[int]:
        kept = partitions.keep(table[some], before, megabytes[some], likely, plan.least, plan.submodels)
        return [some[number] for number in kept]

    kept = kept_of(range(len(special)))
    found = {"working sets": f"general models answer {partitions.answered(table[[]], before, likely):.1%}"}
    for what, of in (
        *((f"method {method}", method) for method in plan.methods if len(plan.methods) > 1),
        *((f"size {size}", size) for size in dict.fromkeys(one.size for one in special) if len(general) > 1),
        ("kept", None),
    ):
        some = [n for n, one in enumerate(special) if of is None or of in (one.method, one.size)]
        chosen = kept if of is None else kept_of(some)
        found[what] = (
            f"{partitions.answered(table[chosen], before, likely):.1%} with {len(chosen)} of {len(some)} submodels in "
            f"{megabytes[chosen].sum():.2f} MB"
        )
    names = ["full", *general, *(special[number].name for number in kept)]
    for name in set(paths) - set(names):
        shutil.rmtree(directory / name)

    def milliseconds(name: str) -> float:
        return round(1000 * cost.seconds([paths[name]], blank(inputs[name]), _RUNS)[0], 3)

    models = {
        name: Model(
            role="full" if name == "full" else "base" if name == "base" else "submodel",
            file=f"{name}/1/model.onnx",
            bytes=paths[name].stat().st_size,
            sha256=file_digest(paths[name]),
            input=inputs[name],
            temperature=temperatures[name],
            parameters=made[name].parameters,
            macs=made[name].macs,
            milliseconds=milliseconds(name),
            coverage=coverage[name],
            classes=classes.get(name, ()),
        )
        for name in names
    }
    return Choice(models, found)
