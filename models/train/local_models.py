"""Local models of a build: trained or supplied by the user, measured and selected.

All general models go into the bundle, and the submodels that add most coverage for their bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig
from cachenet.models.certify import calibrate
from cachenet.models.data.dataset import Dataset
from cachenet.models.export import cost
from cachenet.models.export.classifier import serving_graph
from cachenet.models.export.export import export
from cachenet.models.export.metadata import format_labels
from cachenet.models.train import local_networks, partitions
from cachenet.models.train.candidates import RUNS, TrainedModel, local_input
from cachenet.models.train.networks import macs
from cachenet.models.train.partitions import WorkingSet
from cachenet.shared.bundle.manifest import Model, file_digest
from cachenet.shared.command import atomic_files, jobs
from cachenet.shared.inference.image import Input, blank


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
            atomic_files.write(model_path(directory, name), graph.SerializeToString(deterministic=True))
            made[name] = LocalModel(model.input, cost.parameters(model.graph), cost.macs(model.graph, model.input.size))
    if dataset.base is None:
        spec = local_input(dataset.classifier.input)
        trained = local_networks.train(config, dataset, proposed, model_path(directory, "full"), work, progress, run)
        for name, network in trained.items():
            export(network.eval(), model_path(directory, name), properties(config.name, labels, name, spec))
            made[name] = LocalModel(spec, network.parameters_count(), macs(network, spec.size))
    return made


def properties(bundle: str, labels: tuple[str, ...], model: str, spec: Input) -> dict[str, str]:
    """Return the ONNX metadata of a bundle's model."""
    input = msgspec.json.encode(spec).decode()
    return {"bundle": bundle, "labels": format_labels(labels), "input": input, "model": model}


def model_path(directory: Path, name: str) -> Path:
    """Return the file of a model of the bundle in ``directory``."""
    return directory / name / "1" / "model.onnx"


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
    paths, inputs = (
        {name: model_path(directory, name) for name in made},
        {name: own.input for name, own in made.items()},
    )
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
    path = model_path(directory, name)
    return Model(
        role=role,
        file=path.relative_to(directory).as_posix(),
        bytes=path.stat().st_size,
        sha256=file_digest(path),
        input=made.input,
        temperature=temperature,
        parameters=made.parameters,
        macs=made.macs,
        milliseconds=round(1000 * cost.run_seconds([path], blank(made.input), RUNS)[0], 3),
        coverage=coverage,
        classes=classes,
    )
