"""Commands that make a changed bundle from an existing one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cachenet.models.commands import options
from cachenet.models.commands.options import DEFAULT_THREADS, Data, Existing, FrameStep, Json, Out, Threads, Work
from cachenet.models.report import console_report
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import exit


def fine_tune(
    bundle: Existing,
    recent: Annotated[Path, typer.Option(help="File of frames that devices sent, written by a server.")],
    out: Out,
    threads: Threads = DEFAULT_THREADS,
) -> None:
    """Add a submodel to a bundle for the devices of recent frames; 'cloud-server run --fine-tune' calls this.

    The exit code is 3, and no bundle is written, if no submodel was proven better on the most recent frames.

    Example: model-builder fine-tune build/mine --recent recent.msgpack --out build/updated
    """
    with options.user_errors(out):
        options.check_paths(out, recent=recent)
        from cachenet.models.bundle_writer import check_target
        from cachenet.shared.transport import recent_frames

        check_target(out)
        present = Bundle(zoo.find(bundle))
        sent = recent_frames.read(recent, present.manifest)
        import torch

        from cachenet.models.detect import update as detector_update
        from cachenet.models.train import fine_tune as tuner

        torch.set_num_threads(threads)
        try:
            with options.progress_bar() as progress:
                if present.manifest.task == "detection":
                    made = detector_update.update(present, sent, out, progress)
                else:
                    made = tuner.fine_tune(present, sent, out, progress)
        except tuner.NoImprovement as error:
            exit.say("model-builder", f"not proven: {error}")
            raise typer.Exit(3) from None
    typer.echo(f"Written: {out}, with {made.manifest.own_submodel(sent.devices[0])} for {', '.join(sent.devices)}")


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
    quick: options.Quick = False,
    work: Work = None,
    threads: Threads = DEFAULT_THREADS,
    as_json: Json = False,
) -> None:
    """Add a general model of another size to a bundle, and certify the bundle again.

    A smaller model answers most frames of a small device in less time.

    Example: model-builder add-size build/mine --share 0.02 --data frames/ --out build/mine
    """
    with options.inputs(bundle, out, frame_step, work, threads, scenes, data=data, held_out=held_out) as job:
        from cachenet.models.train import sizes

        config = options.config_of(job.bundle.manifest.name, quick, scenes, job.classifier.labels)
        config = replace(config, shares=(share,))
        made = sizes.add(config, job.bundle, job.dataset(), job.work, out, job.progress)
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
    work: Work = None,
    threads: Threads = DEFAULT_THREADS,
    as_json: Json = False,
) -> None:
    """Add early exits to the full model, so that a server runs only a part of the model for most requests.

    Example: model-builder exits build/mine --data frames/ --out build/mine
    """
    with options.inputs(bundle, out, frame_step, work, threads, data=data, held_out=held_out) as job:
        from cachenet.models.exits.build import Limits, build

        limits, dataset = Limits(most, wrong=wrong), job.dataset()
        made = build(job.bundle, dataset, limits, 0, threads, job.work, out, job.progress)
    for frames in job.sources:
        options.show_skipped(frames)
    console_report.exits(made, as_json)


def prove(
    bundle: Existing,
    held_out: Annotated[Path, typer.Option(help="Footage that none of the bundle's models was trained on.")],
    out: Out,
    scenes: options.Scenes = None,
    frame_step: FrameStep = 1,
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
    with options.inputs(bundle, out, frame_step, work, threads, scenes, held_out=held_out) as job:
        from cachenet.models.certify.recertify import recertify
        from cachenet.models.data.dataset import held_out_splits

        [source] = job.sources
        config = options.config_of("", quick, scenes, job.classifier.labels)
        logits = options.run_full_model(job.classifier, source, job.work, threads, job.progress)
        tune, rest = held_out_splits(job.classifier, (source, logits))
        made = recertify(config, job.bundle, tune, rest, out, job.progress)
    options.show_result(made, job.sources, as_json)
