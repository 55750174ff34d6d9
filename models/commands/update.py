"""Commands that make a changed bundle from an existing one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cachenet.models.commands.options import (
    PROCESSORS,
    Data,
    Existing,
    FrameStep,
    HeldOut,
    Json,
    Key,
    Out,
    Quick,
    Scenes,
    Threads,
    Work,
    check_paths,
    collect_dataset,
    config_of,
    full_model,
    progress_bar,
    refuse,
    run_full_model,
    show_result,
    show_skipped,
    user_errors,
    work_directory,
)
from cachenet.models.report import console_report
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import exit

if TYPE_CHECKING:
    from cachenet.models.data.frames import Frames
    from cachenet.shared.bundle.trust import Signer


def fine_tune(
    bundle: Existing,
    data: Data,
    held_out: Annotated[
        Path | None, typer.Option(help="Frames to tune with (default: the last three tenths of --data).")
    ] = None,
    recent: Annotated[Path | None, typer.Option(help="File of frames that devices sent, written by a server.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the new bundle; a bundle that is there already is replaced."),
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Run of the full model on --data and nothing else, ahead of a later run.")
    ] = False,
    key: Key = None,
    frame_step: FrameStep = 1,
    work: Work = None,
    threads: Threads = PROCESSORS,
) -> None:
    """Add a submodel to a bundle for a working set of its devices; 'cloud-server run --fine-tune' calls this.

    The exit code is 3, and no bundle is written, if the submodel was not proven better than the base model.

    Example: model-builder fine-tune build/mine --data frames/ --recent recent.npz --out build/updated
    """
    with user_errors(out):
        if not prepare and (recent is None or out is None):
            refuse("give --recent and --out, or --prepare")
        check_paths(out, data=data, held_out=held_out, recent=recent, key=key)
        found, sources, signer = _inputs(bundle, out, (data, held_out), frame_step, key)
        import torch

        from cachenet.models.train import fine_tune as tuner

        torch.set_num_threads(threads)
        classifier = full_model(found)
        with progress_bar() as progress:
            dataset = collect_dataset(classifier, sources, work_directory(work), threads, progress)
            if recent is None or out is None:
                return
            sent = tuner.read(recent, found)
            try:
                made = tuner.specialise(found, sent, dataset, out, progress, signer)
            except tuner.Unproven as error:
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
    held_out: HeldOut = None,
    scenes: Scenes = None,
    frame_step: FrameStep = 1,
    key: Key = None,
    quick: Quick = False,
    work: Work = None,
    threads: Threads = PROCESSORS,
    as_json: Json = False,
) -> None:
    """Add a general model of another size to a bundle, and certify the bundle again.

    A smaller model answers most frames of a small device in less time.

    Example: model-builder add-size build/mine --share 0.02 --data frames/ --out build/mine
    """
    with user_errors(out):
        check_paths(out, data=data, held_out=held_out, scenes=scenes, key=key)
        found, sources, signer = _inputs(bundle, out, (data, held_out), frame_step, key)
        import torch

        from cachenet.models.train import sizes

        torch.set_num_threads(threads)
        classifier = full_model(found)
        config = replace(config_of(found.manifest.name, quick, scenes, classifier.labels), shares=(share,))
        directory = work_directory(work)
        with progress_bar() as progress:
            dataset = collect_dataset(classifier, sources, directory, threads, progress)
            made = sizes.add(config, found, dataset, directory, out, progress, signer)
    show_result(made, sources, as_json)


def exits(
    bundle: Existing,
    data: Data,
    out: Out,
    held_out: HeldOut = None,
    most: Annotated[int, typer.Option(min=1, max=8, help="Largest number of early exits.")] = 5,
    wrong: Annotated[
        float,
        typer.Option(
            min=0.0001,
            max=0.2,
            help="Largest share of requests with an exit's answer that differs from the full model's.",
        ),
    ] = 0.005,
    frame_step: FrameStep = 1,
    key: Key = None,
    work: Work = None,
    threads: Threads = PROCESSORS,
    as_json: Json = False,
) -> None:
    """Add early exits to the full model, so that a server runs only a part of the model for most requests.

    Example: model-builder exits build/mine --data frames/ --out build/mine
    """
    with user_errors(out):
        check_paths(out, data=data, held_out=held_out, key=key)
        found, sources, signer = _inputs(bundle, out, (data, held_out), frame_step, key)
        import torch

        from cachenet.models.exits.build import Limits, build

        torch.set_num_threads(threads)
        classifier = full_model(found)
        with progress_bar() as progress:
            directory = work_directory(work)
            dataset = collect_dataset(classifier, sources, directory, threads, progress)
            made = build(found, dataset, Limits(most, wrong=wrong), 0, threads, directory, out, progress, signer)
    for frames in sources:
        show_skipped(frames)
    console_report.exits(made, as_json)


def prove(
    bundle: Existing,
    held_out: Annotated[Path, typer.Option(help="Footage that none of the bundle's models was trained on.")],
    out: Out,
    scenes: Scenes = None,
    frame_step: FrameStep = 1,
    key: Key = None,
    quick: Quick = False,
    work: Work = None,
    threads: Threads = PROCESSORS,
    as_json: Json = False,
) -> None:
    """Certify a bundle again, on your own footage; its models stay as they are.

    Each video, or directory of pictures in order, is divided: its first fifth is for tuning, and the bundle is
    certified on the rest, in blocks of consecutive frames.

    Example: model-builder prove cifar10 --held-out frames/ --out build/here
    """
    with user_errors(out):
        check_paths(out, held_out=held_out, scenes=scenes, key=key)
        found, [source], signer = _inputs(bundle, out, (held_out,), frame_step, key)
        import torch

        from cachenet.models.certify.recertify import again
        from cachenet.models.data.dataset import held

        torch.set_num_threads(threads)
        classifier = full_model(found)
        config = config_of("", quick, scenes, classifier.labels)
        with progress_bar() as progress:
            logits = run_full_model(classifier, source, work_directory(work), threads, progress)
            tune, rest = held(classifier, (source, logits))
            made = again(config, found, tune, rest, out, progress, signer)
    show_result(made, [source], as_json)


def _inputs(
    bundle: Path, out: Path | None, data: Sequence[Path | None], frame_step: int, key: Path | None
) -> tuple[Bundle, list[Frames], Signer | None]:
    """The bundle, the frames of each path in ``data``, and the signer. Raises ``UserError``, also for a bad ``out``."""
    from cachenet.models.bundle_writer import check_place
    from cachenet.models.data.frames import find
    from cachenet.shared.bundle.trust import Signer

    if out is not None:
        check_place(out)
    found, sources = Bundle(zoo.find(bundle)), [find(source, frame_step) for source in data if source is not None]
    return found, sources, Signer(key) if key is not None else None
