"""Commands that make a changed bundle from an existing one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cachenet.models.commands import options
from cachenet.models.commands.options import DEFAULT_THREADS, Data, Existing, FrameStep, Json, Key, Out, Threads, Work
from cachenet.models.report import console_report
from cachenet.shared.command import exit


def fine_tune(
    bundle: Existing,
    data: Data,
    held_out: options.HeldOut = None,
    recent: Annotated[Path | None, typer.Option(help="File of frames that devices sent, written by a server.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the new bundle, needed with --recent.")] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Run of the full model on --data and nothing else, ahead of a later run.")
    ] = False,
    key: Key = None,
    frame_step: FrameStep = 1,
    work: Work = None,
    threads: Threads = DEFAULT_THREADS,
) -> None:
    """Add a submodel to a bundle for a working set of its devices; 'cloud-server run --fine-tune' calls this.

    The exit code is 3, and no bundle is written, if the submodel was not proven better than the base model.

    Example: model-builder fine-tune build/mine --data frames/ --recent recent.npz --out build/updated
    """
    if not prepare and (recent is None or out is None):
        options.refuse("give --recent and --out, or --prepare")
    options.check_paths(recent=recent)
    with options.inputs(bundle, out, frame_step, key, work, threads, data=data, held_out=held_out) as job:
        from cachenet.models.train import fine_tune as tuner

        dataset = job.dataset()
        if recent is None or out is None:
            return
        sent = tuner.read(recent, job.bundle)
        try:
            made = tuner.fine_tune(job.bundle, sent, dataset, out, job.progress, job.signer)
        except tuner.NoImprovement as error:
            exit.say("model-builder", f"not proven: {error}")
            raise typer.Exit(3) from None
    typer.echo(f"Written: {out}, with {list(made.manifest.models)[-1]}")


def add_size(
    bundle: Existing,
    share: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Multiply-adds of the new model, as a share of the full model's.")
    ],
    data: Data,
    out: Out,
    held_out: options.HeldOut = None,
    scenes: options.Scenes = None,
    frame_step: FrameStep = 1,
    key: Key = None,
    quick: options.Quick = False,
    work: Work = None,
    threads: Threads = DEFAULT_THREADS,
    as_json: Json = False,
) -> None:
    """Add a general model of another size to a bundle, and certify the bundle again.

    A smaller model answers most frames of a small device in less time.

    Example: model-builder add-size build/mine --share 0.02 --data frames/ --out build/mine
    """
    with options.inputs(bundle, out, frame_step, key, work, threads, scenes, data=data, held_out=held_out) as job:
        from cachenet.models.train import sizes

        config = options.config_of(job.bundle.manifest.name, quick, scenes, job.classifier.labels)
        config = replace(config, shares=(share,))
        made = sizes.add(config, job.bundle, job.dataset(), job.work, out, job.progress, job.signer)
    options.show_result(made, job.sources, as_json)


def exits(
    bundle: Existing,
    data: Data,
    out: Out,
    held_out: options.HeldOut = None,
    most: Annotated[int, typer.Option(min=1, max=8, help="Largest number of early exits.")] = 5,
    wrong: Annotated[
        float,
        typer.Option(min=0.0001, max=0.2, help="Largest share of requests that exits answer unlike the full model."),
    ] = 0.005,
    frame_step: FrameStep = 1,
    key: Key = None,
    work: Work = None,
    threads: Threads = DEFAULT_THREADS,
    as_json: Json = False,
) -> None:
    """Add early exits to the full model, so that a server runs only a part of the model for most requests.

    Example: model-builder exits build/mine --data frames/ --out build/mine
    """
    with options.inputs(bundle, out, frame_step, key, work, threads, data=data, held_out=held_out) as job:
        from cachenet.models.exits.build import Limits, build

        limits, dataset = Limits(most, wrong=wrong), job.dataset()
        made = build(job.bundle, dataset, limits, 0, threads, job.work, out, job.progress, job.signer)
    for frames in job.sources:
        options.show_skipped(frames)
    console_report.exits(made, as_json)


def prove(
    bundle: Existing,
    held_out: Annotated[Path, typer.Option(help="Footage that none of the bundle's models was trained on.")],
    out: Out,
    scenes: options.Scenes = None,
    frame_step: FrameStep = 1,
    key: Key = None,
    quick: options.Quick = False,
    work: Work = None,
    threads: Threads = DEFAULT_THREADS,
    as_json: Json = False,
) -> None:
    """Certify a bundle again, on your own footage; its models stay as they are.

    Each video, or directory of pictures in order, is divided: its first fifth is for tuning, and the bundle is
    certified on the rest, in blocks of consecutive frames.

    Example: model-builder prove cifar10 --held-out frames/ --out build/here
    """
    with options.inputs(bundle, out, frame_step, key, work, threads, scenes, held_out=held_out) as job:
        from cachenet.models.certify.recertify import recertify
        from cachenet.models.data.dataset import held_out_splits

        [source] = job.sources
        config = options.config_of("", quick, scenes, job.classifier.labels)
        logits = options.run_full_model(job.classifier, source, job.work, threads, job.progress)
        tune, rest = held_out_splits(job.classifier, (source, logits))
        made = recertify(config, job.bundle, tune, rest, out, job.progress, job.signer)
    options.show_result(made, job.sources, as_json)
