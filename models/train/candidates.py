"""Local models of a build: trained or supplied by the user, quantised, measured and selected.

There is a general model for each size, and from it a submodel for each partition. All general models go into the
bundle, and the submodels that add most coverage for their bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch
from rich.progress import Progress

from cachenet.models.build_config import DEFAULT_SHARES, BuildConfig, key
from cachenet.models.certify import calibrate, traces
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.export import cost, quantise
from cachenet.models.export.classifier import PRESETS, ClassifierError, serving_graph
from cachenet.models.export.export import export
from cachenet.models.export.metadata import format_labels
from cachenet.models.report import scores
from cachenet.models.report.remarks import SLOW
from cachenet.models.train import clusters, partitions, teacher_runtime
from cachenet.models.train.distill import Teacher, distillation_loss, train_submodel
from cachenet.models.train.networks import BASE, ResNet, Shape, macs, sized
from cachenet.models.train.partitions import Partition, WorkingSet
from cachenet.models.train.training import Recipe, accuracy, fit
from cachenet.shared.bundle.manifest import Model, digest, file_digest
from cachenet.shared.command import atomic_files, jobs
from cachenet.shared.inference.engine import Session, first_line
from cachenet.shared.inference.image import Input, Size, blank

#: Clusters for each label.
_CLUSTERS_PER_LABEL = 4
#: Maximum number of clusters.
_MAX_CLUSTERS = 256
#: Maximum multiply-adds of a small network, as a share of the full model's.
SMALL = 1 / 30
#: Blocks of each stage of a small network: dispatching its operators takes as long as their arithmetic.
_SMALL_BLOCKS = (1, 1, 1)
#: Learning rate of submodels; a higher one would make a large network forget.
RATE = 0.05
#: Learning rate of small submodels, which have to forget other labels to learn their own better.
SMALL_RATE = 0.1
#: Learning rate of general models at ``_BATCH``; scaled with the root of the batch size.
_GENERAL_RATE = 0.2
#: Frames of a batch.
_BATCH = 128
#: Maximum absolute normalised colour of an input that networks are trained on.
_MAX_COLOUR = 10.0
#: Timed runs of each model.
_RUNS = 50
#: Maximum number of halvings of the base model's share.
_HALVINGS = 6
#: Multiply-adds below which a smaller model is hardly faster, because dispatching some twenty operators dominates.
_CHEAP = 2e6
#: Maximum time of INT8 as a share of the float16 model's.
_MAX_TIME = 0.9
#: Maximum loss of coverage and of agreement that INT8 may cause.
_TOLERANCE = 0.01
#: Risk at which the coverage of precisions is compared.
_RISK = 0.01


@dataclass(frozen=True)
class TrainedModel:
    """A local model to train."""

    name: str  # Name in the bundle
    size: str  # Multiply-adds relative to the full model's, as text (``1in13``)
    shape: Shape | None  # Architecture; None for the user's base model
    part: Partition | None = None  # Partition of a submodel; None for a general model


@dataclass(frozen=True)
class LocalModel:
    """Preprocessing and size of a model."""

    input: Input
    parameters: int
    macs: int


@dataclass(frozen=True)
class Selection:
    """Selected models: the full model, the general models and some submodels."""

    models: dict[str, Model]  # Manifest entries by name
    found: dict[str, str]  # Provenance text about the selection


def propose(config: BuildConfig, dataset: Dataset, likely: Sequence[WorkingSet]) -> list[TrainedModel]:
    """Return the general models, the base model first, and submodels for ``likely`` working sets.

    Return the base model alone if the user supplies it.
    """
    if dataset.base is not None:
        return [TrainedModel("base", "as given", None)]
    sizes = _sizes(config.shares, dataset)
    first = next(iter(sizes))
    models = [TrainedModel("base" if size == first else f"general-{size}", size, net) for size, net in sizes.items()]
    for number, part in enumerate(_partition(config, dataset, likely), 1):
        name = model_name(f"c{number:02}", [dataset.classifier.labels[label] for label in part.labels])
        models += [
            TrainedModel(name if size == first else f"{name}-{size}", size, net, part)
            for size, net in _sizes(config.submodel_shares or config.shares, dataset).items()
        ]
    return models


def model_name(prefix: str, labels: Sequence[str]) -> str:
    """Return a model name of at most 40 ASCII characters: ``prefix`` and ``labels``."""
    words = "-".join(labels).lower()
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in words)
    return f"{prefix}-{plain}"[:40].rstrip("-")


def _sizes(shares: Sequence[float], dataset: Dataset) -> dict[str, Shape]:
    """Return the distinct architectures by size, in the order of ``shares``."""
    classifier = dataset.classifier
    side = classifier.input.size
    full = max(1, cost.macs(classifier.graph, side))
    shapes = dict.fromkeys(network_shape(share, full, side, len(classifier.labels)) for share in shares)
    return {f"1in{full / macs(ResNet(net), side):.3g}": net for net in shapes}


def network_shape(share: float, full: int, side: Size, classes: int) -> Shape:
    """Return the architecture for a ``share`` of the ``full`` model's multiply-adds."""
    return sized(int(share * full), side, classes, _SMALL_BLOCKS if share < SMALL else BASE.blocks)


def affordable_shares(config: BuildConfig, dataset: Dataset, work: Path) -> tuple[float, ...]:
    """Return ``config.shares``; adapt a default share so that the base model is fast on this machine.

    The share is raised to ``_CHEAP`` multiply-adds, then halved until the base model takes at most ``SLOW`` of the full
    model's time or cannot get smaller. The result is stored in ``work``.
    """
    if dataset.base is not None or config.shares != DEFAULT_SHARES:
        return config.shares
    classifier, spec = dataset.classifier, local_input(dataset.classifier.input)
    stored = work / f"share-{key(digest(classifier.graph.SerializeToString(deterministic=True)), config.shares)}.txt"
    if not stored.exists():
        full, [share] = max(1, cost.macs(classifier.graph, classifier.input.size)), config.shares
        share = max(share, min(SLOW, _CHEAP / full))
        with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
            path = Path(directory, "full.onnx")
            path.write_bytes(serving_graph(classifier, {}).SerializeToString(deterministic=True))
            [full_seconds] = cost.run_seconds([path], blank(classifier.input), _RUNS)
            tried: Shape | None = None
            for halved in [share / 2**times for times in range(_HALVINGS)]:
                net = network_shape(halved, full, spec.size, len(classifier.labels))
                if net == tried:
                    break
                tried, share = net, halved
                path = Path(directory, "base.onnx")
                export(ResNet(net).eval(), path, {})
                if cost.run_seconds([path], blank(spec), _RUNS)[0] <= SLOW * full_seconds:
                    break
        atomic_files.write(stored, repr(share).encode())
    return (float(stored.read_text()),)


def local_input(spec: Input) -> Input:
    """Return the preprocessing of trained networks for a full model of ``spec``: same crop, RGB, small numbers."""
    mean, std = spec.mean, spec.std
    if spec.colour == "bgr":
        mean, std = mean[::-1], std[::-1]
    largest = max(max(middle, 255 - middle) / spread for middle, spread in zip(mean, std, strict=True))
    if spec.colour == "grey" or largest > _MAX_COLOUR:
        mean, std = PRESETS["imagenet"].mean, PRESETS["imagenet"].std
    return msgspec.structs.replace(spec, mean=mean, std=std, colour="rgb")


def _partition(config: BuildConfig, dataset: Dataset, likely: Sequence[WorkingSet]) -> list[Partition]:
    learn, classes = dataset.learn, len(dataset.classifier.labels)
    if not config.submodels:
        return []
    count = min(_MAX_CLUSTERS, _CLUSTERS_PER_LABEL * classes, len(learn) // 4)
    own = clusters.assign(learn.embeddings, clusters.fit(learn.embeddings, count, config.seed))
    return partitions.group_clusters(own, learn.full_labels, classes, likely, config.submodels)


def build_models(
    config: BuildConfig,
    dataset: Dataset,
    proposed: Sequence[TrainedModel],
    directory: Path,
    work: Path,
    progress: Progress,
    run: jobs.Run = jobs.in_process,
) -> dict[str, LocalModel]:
    """Write the full model and the proposed models into ``directory``; return their sizes by name."""
    made: dict[str, LocalModel] = {}
    labels = dataset.classifier.labels
    for name, model in {"full": dataset.classifier, "base": dataset.base}.items():
        if model is not None:
            graph = serving_graph(model, properties(config.name, labels, name, model.input))
            atomic_files.write(_path(directory, name), graph.SerializeToString(deterministic=True))
            made[name] = LocalModel(model.input, cost.parameters(model.graph), cost.macs(model.graph, model.input.size))
    if dataset.base is None:
        spec = local_input(dataset.classifier.input)
        trained = train(config, dataset, proposed, _path(directory, "full"), work, progress, run)
        for name, network in trained.items():
            export(network.eval(), _path(directory, name), properties(config.name, labels, name, spec))
            made[name] = LocalModel(spec, network.parameters_count(), macs(network, spec.size))
    return made


def properties(bundle: str, labels: tuple[str, ...], model: str, spec: Input) -> dict[str, str]:
    """Return the ONNX metadata of a bundle's model."""
    input = msgspec.json.encode(spec).decode()
    return {"bundle": bundle, "labels": format_labels(labels), "input": input, "model": model}


def _path(directory: Path, name: str) -> Path:
    return directory / name / "1" / "model.onnx"


@dataclass(frozen=True)
class _Plan:
    """What the training of every network needs."""

    config: BuildConfig
    spec: Input
    teacher: Teacher
    tune: LabelledFrames
    general: Recipe  # Of general models
    refining: Recipe  # Of submodels
    small: float  # Multiply-adds below which a submodel is a small network
    threads: int  # Threads of PyTorch


#: A model to train, the weights of the general model of its size if it is a submodel, and its checkpoint so far.
_Start = tuple[TrainedModel, Mapping[str, torch.Tensor], bytes]


def train(
    config: BuildConfig,
    dataset: Dataset,
    proposed: Sequence[TrainedModel],
    full: Path,
    work: Path,
    progress: Progress,
    run: jobs.Run = jobs.in_process,
) -> dict[str, ResNet]:
    """Train the proposed networks, or continue from the checkpoints in ``work``; return them by name.

    Args:
        run: Where networks are trained. A network that has been trained elsewhere comes back as a checkpoint.
    """
    learn, tune, full_spec = dataset.learn, dataset.tune, dataset.classifier.input
    spec = local_input(full_spec)
    runtime = teacher_runtime.choose_runtime(full, full_spec, tune, config.views * len(learn), work)
    work = work / runtime.name
    teacher = Teacher(
        lambda images: traces.run_model(runtime.session, full_spec, traces.as_pictures(images)),
        learn.images,
        config.views,
        config.seed,
        work,
        progress,
    )
    early = config.epochs // 4
    width, height = spec.size
    phases = ((early, (width * 3 // 4, height * 3 // 4)), (config.epochs - early, spec.size))
    general = Recipe(
        phases=tuple(phase for phase in phases if phase[0]),
        rate=_GENERAL_RATE * (config.batch / _BATCH) ** 0.5,
        batch=max(8, min(config.batch, len(learn) // 8)),
        decay=1e-4,
    )
    batch = max(8, min(_BATCH, len(learn) // 8))
    refining = Recipe(phases=((config.refine_epochs, spec.size),), rate=RATE, batch=batch, decay=1e-4)
    small = SMALL * cost.macs(dataset.classifier.graph, spec.size)
    plan = _Plan(config, spec, teacher, tune, general, refining, small, torch.get_num_threads())
    networks: dict[str, ResNet] = {}
    weights: dict[Shape | None, Mapping[str, torch.Tensor]] = {}  # of the general models
    for stage in (
        [model for model in proposed if model.part is None],
        [model for model in proposed if model.part is not None],
    ):
        starts = {model.name: {} if model.part is None else weights[model.shape] for model in stage}
        if run is not jobs.in_process:
            paths = [_checkpoint(plan, model, work) for model in stage]
            so_far = [path.read_bytes() if path.exists() else b"" for path in paths]
            parts = [(model, starts[model.name], data) for model, data in zip(stage, so_far, strict=True)]
            trained = progress.track(run(_train_elsewhere, plan, parts), len(parts), description="training")
            for path, data in zip(paths, trained, strict=True):
                atomic_files.write(path, data)
        for model in stage:
            networks[model.name] = _train_network(plan, model, starts[model.name], work, progress)
            if model.part is None:
                weights[model.shape] = networks[model.name].state_dict()
    return networks


def _train_elsewhere(plan: _Plan, start: _Start) -> bytes:
    """Train one network in a job; return its checkpoint."""
    model, weights, so_far = start
    torch.set_num_threads(plan.threads)
    with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
        path = _checkpoint(plan, model, Path(directory))
        if so_far:
            path.write_bytes(so_far)
        _train_network(plan, model, weights, Path(directory), Progress(disable=True))
        return path.read_bytes()


def _checkpoint(plan: _Plan, model: TrainedModel, work: Path) -> Path:
    """The file of a network's checkpoint in ``work``."""
    origin = key(model.shape, plan.config.views, plan.config.epochs, plan.config.batch)
    if model.part is None:
        return work / f"base-{origin}.pt"
    return work / f"{model.name}-{key(origin, _refining(plan, model), digest(model.part.rows.tobytes()))}.pt"


def _refining(plan: _Plan, model: TrainedModel) -> Recipe:
    """The recipe of a submodel."""
    assert model.shape is not None, "the user's base model is not trained"
    is_small = macs(ResNet(model.shape), plan.spec.size) < plan.small
    return replace(plan.refining, rate=SMALL_RATE) if is_small else plan.refining


def _train_network(
    plan: _Plan, model: TrainedModel, weights: Mapping[str, torch.Tensor], work: Path, progress: Progress
) -> ResNet:
    """Train one network, or continue from its checkpoint in ``work``. ``weights``: where a submodel starts."""
    assert model.shape is not None, "the user's base model is not trained"
    spec, teacher, tune, checkpoint = plan.spec, plan.teacher, plan.tune, _checkpoint(plan, model, work)
    if model.part is not None:
        network = ResNet(model.shape)
        network.load_state_dict(weights)
        rows, recipe, held_out = model.part.rows, _refining(plan, model), (tune.images, tune.scores)
        train_submodel(network, spec, teacher, recipe, rows, held_out, checkpoint, progress, model.name)
        return network
    torch.manual_seed(plan.config.seed + 1)
    network = ResNet(model.shape)
    fit(
        network,
        spec,
        plan.general,
        teacher.epoch(plan.general.batch),
        teacher.steps(plan.general.batch),
        distillation_loss(),
        checkpoint,
        progress,
        model.name,
        lambda trained: {"held": accuracy(trained, tune.split, spec)},
        keep_best="held",
    )
    return network


def quantise_if_faster(
    config: BuildConfig,
    dataset: Dataset,
    made: Mapping[str, LocalModel],
    directory: Path,
    work: Path,
    progress: Progress,
) -> str:
    """Convert the local models in ``directory`` to INT8 if the config says so, or if it is better for the base model.

    All local models get the same precision, so that precision does not affect their selection. The decision is stored
    in ``work``, because measured times vary.

    Returns:
        Provenance text: the precision, and the comparison that decided.

    Raises:
        ClassifierError: The config asks for INT8, and the user's base model cannot be converted.
    """
    original, spec = "float16" if dataset.base is None else "as given", made["base"].input
    if config.precision == "float16":
        return original
    images = teacher_runtime.calibration_inputs(spec, dataset.tune)

    def quantised(name: str) -> Path:
        path = _path(directory, name)
        graph = quantise.int8(onnx.load(str(path)), images)
        atomic_files.write(path.with_suffix(".int8"), graph.SerializeToString(deterministic=True))
        return path.with_suffix(".int8")

    before = _path(directory, "base")
    try:
        after = quantised("base")
        stored = work / f"precision-{key(config.precision, file_digest(before), file_digest(after))}.txt"
        if not stored.exists():
            decision = _choose_precision(config, dataset.tune, spec, before, after, images[:1], original)
            atomic_files.write(stored, decision.encode())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the quantiser may fail in any way on a user's graph
        if dataset.base is None:
            raise
        if config.precision == "int8":
            why = f"the base model cannot be converted to INT8 ({first_line(error)}); leave out --precision"
            raise ClassifierError(why) from None
        before.with_suffix(".int8").unlink(missing_ok=True)
        return f"{original}; it cannot be converted to INT8"
    if (decision := stored.read_text()).startswith(original):
        after.unlink()
        return decision
    for name in progress.track([name for name in made if name != "full"], description="INT8"):
        (after if name == "base" else quantised(name)).replace(_path(directory, name))
    return decision


def _choose_precision(
    config: BuildConfig,
    tune: LabelledFrames,
    spec: Input,
    before: Path,
    after: Path,
    image: npt.NDArray[np.float32],
    original: str,
) -> str:
    """Compare the base model ``before`` and ``after`` conversion; return the precision and the reason."""
    pictures, threads = traces.as_pictures(tune.images), torch.get_num_threads()

    def measure(path: Path) -> tuple[float, float]:
        logits = traces.run_model(Session(path, "cpu", threads), spec, pictures, tune.full_input)
        right = logits.argmax(1) == tune.full_labels
        return scores.coverage_at(_RISK, scores.uncertainty_scores(logits, 1.0)["probability"], right), float(
            right.mean()
        )

    (coverage, agreement), (int8_coverage, int8_agreement) = measure(before), measure(after)
    ratio = quantise.compare(before, after, image)
    better = (
        ratio.time <= _MAX_TIME and int8_coverage >= coverage - _TOLERANCE and int8_agreement >= agreement - _TOLERANCE
    )
    return (
        f"{'int8' if better or config.precision == 'int8' else original}; "
        f"int8 takes {ratio.time:.2f} of the time and {ratio.bytes:.2f} of the bytes, and answers "
        f"{int8_coverage:.1%} of frames at 1 % risk for {coverage:.1%}, and agrees on {int8_agreement:.1%} for "
        f"{agreement:.1%}"
    )


def select(
    config: BuildConfig,
    dataset: Dataset,
    proposed: Sequence[TrainedModel],
    made: Mapping[str, LocalModel],
    likely: Sequence[WorkingSet],
    directory: Path,
    progress: Progress,
) -> Selection:
    """Measure the models and select submodels; remove the others from ``directory``."""
    paths, inputs = {name: _path(directory, name) for name in made}, {name: own.input for name, own in made.items()}
    classes = {model.name: model.part.labels for model in proposed if model.part is not None}
    temperatures, coverage = calibrate.calibrate_models(
        dataset.tune, inputs, "full", paths, classes, config.seed, progress
    )

    general = [model.name for model in proposed if model.part is None]
    special = [model for model in proposed if model.part is not None]
    before = np.array([coverage[name] for name in general])
    megabytes = np.array([paths[model.name].stat().st_size / 1e6 for model in special])
    table = np.array([coverage[model.name] for model in special]).reshape(len(special), before.shape[1])

    found = {"working sets": f"general models answer {partitions.mean_coverage(table[[]], before, likely):.1%}"}
    groups = {"kept": list(range(len(special)))}
    if len(general) > 1:
        of_size = {model.size: [n for n, one in enumerate(special) if one.size == model.size] for model in special}
        groups = {f"size {size}": numbers for size, numbers in of_size.items()} | groups
    chosen: list[int] = []
    for group, numbers in groups.items():
        limits = config.min_coverage, config.submodels
        picked = partitions.select_submodels(table[numbers], before, megabytes[numbers], likely, *limits)
        chosen = [numbers[number] for number in picked]
        found[group] = (
            f"{partitions.mean_coverage(table[chosen], before, likely):.1%} with {len(chosen)} of {len(numbers)} "
            f"submodels in {megabytes[chosen].sum():.2f} MB"
        )
    names = ["full", *general, *(special[number].name for number in chosen)]
    for name in set(paths) - set(names):
        shutil.rmtree(directory / name)
    models = {
        name: manifest_entry(
            directory,
            name,
            "full" if name == "full" else "base" if name == "base" else "submodel",
            made[name],
            temperatures[name],
            coverage[name],
            classes.get(name, ()),
        )
        for name in names
    }
    return Selection(models, found)


def manifest_entry(
    directory: Path,
    name: str,
    role: Literal["full", "base", "submodel"],
    made: LocalModel,
    temperature: float,
    coverage: tuple[float, ...],
    classes: tuple[int, ...] = (),
) -> Model:
    """Return the manifest entry of the model ``name`` in the bundle's ``directory``; its time is measured here."""
    path = _path(directory, name)
    return Model(
        role=role,
        file=path.relative_to(directory).as_posix(),
        bytes=path.stat().st_size,
        sha256=file_digest(path),
        input=made.input,
        temperature=temperature,
        parameters=made.parameters,
        macs=made.macs,
        milliseconds=round(1000 * cost.run_seconds([path], blank(made.input), _RUNS)[0], 3),
        coverage=coverage,
        classes=classes,
    )
