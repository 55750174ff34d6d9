"""Training of local networks from a full model's answers: general models first, then submodels from them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig, key
from cachenet.models.certify import traces
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.export import cost
from cachenet.models.train import teacher_runtime
from cachenet.models.train.candidates import SMALL, TrainedModel, local_input
from cachenet.models.train.distill import Teacher, distillation_loss, train_submodel
from cachenet.models.train.networks import ResNet, Shape, macs
from cachenet.models.train.training import Recipe, accuracy, fit
from cachenet.shared.bundle.manifest import digest
from cachenet.shared.command import atomic_files, jobs
from cachenet.shared.inference.image import Input

#: Learning rate of submodels; a higher one would make a large network forget.
RATE = 0.05
#: Learning rate of small submodels, which have to forget other labels to learn their own better.
SMALL_RATE = 0.1
#: Learning rate of general models at ``_BATCH``; scaled with the root of the batch size.
_GENERAL_RATE = 0.2
#: Frames of a batch.
_BATCH = 128


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
