"""Commands that show a bundle, or a full model before a build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenet.models.commands import options
from cachenet.models.commands.options import (
    DEFAULT_THREADS,
    Data,
    Decoder,
    Existing,
    FrameStep,
    Full,
    Json,
    Labels,
    Preprocessing,
    Threads,
    Work,
)
from cachenet.models.report import console_report
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.extras import require_signing

if TYPE_CHECKING:
    from cachenet.models.data.frames import Frames
    from cachenet.models.export.classifier import Classifier
    from cachenet.models.export.detector import DetectorModel

#: Seed of the first stream of a report.
_FIRST_SEED = 3000


def show(
    bundle: Existing,
    trusted_root: Annotated[
        Path | None, typer.Option(help="File of a root of trust; a bundle that its keys have not signed is refused.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a bundle's digests and list its models.

    Example: model-builder show cifar10
    """
    with options.user_errors(bundle):
        options.check_paths(trusted_root=trusted_root)
        found = Bundle(zoo.find(bundle))
        if trusted_root is not None:
            require_signing()
            from cachenet.shared.bundle.trust import TrustedRoot

            TrustedRoot(trusted_root).verify_bundle(found)
    console_report.models(found, as_json)


def report(
    bundle: Existing,
    data: Annotated[
        Path | None,
        typer.Option(help="Frames that the bundle was not built from (default: the test images, for CIFAR-10 labels)."),
    ] = None,
    frame_step: FrameStep = 1,
    streams: Annotated[int, typer.Option(help="Number of streams to replay.", min=1)] = 20,
    frames: Annotated[int, typer.Option(help="Number of frames of a stream.", min=16)] = 1000,
    page: Annotated[Path | None, typer.Option("--html", help="File for an HTML page with figures.")] = None,
    work: Work = None,
    threads: Threads = DEFAULT_THREADS,
    as_json: Json = False,
) -> None:
    """Measure a bundle on frames that it was not built from.

    The report has the agreement with the full model, and the accuracy if the directories are named after labels. Of
    detectors it has hits, misses and false objects, by size and by part of the picture.

    Example: model-builder report cifar10 --html report.html
    """
    with options.user_errors(page):
        options.check_paths(data=data)
        if page is not None:
            options.check_writable("html", page)
        from cachenet.models.data.frames import find

        found = Bundle(zoo.find(bundle))
        source = None if data is None else find(data, frame_step)
        if found.manifest.task == "detection":
            _report_detectors(found, source, page, threads, as_json)
            return
        import torch

        from cachenet.models.certify.traces import as_pictures
        from cachenet.models.data import cifar10, dataset
        from cachenet.models.report import reporting
        from cachenet.models.report.page import html
        from cachenet.models.train.label import look
        from cachenet.shared.command import atomic_files

        torch.set_num_threads(threads)
        classifier = options.full_model(found)
        if source is None and found.manifest.labels != cifar10.LABELS:
            options.refuse("no test images of these labels are known; give --data")
        with options.progress_bar() as progress:
            if source is None:
                test = cifar10.load().test
                part = dataset.from_labelled(
                    test, look(classifier, as_pictures(test.images), threads), classifier.input
                )
            else:
                logits = options.run_full_model(classifier, source, options.work_directory(work), threads, progress)
                part = dataset.all_frames(classifier, source, logits)
            made = reporting.report(found, part, streams, frames, _FIRST_SEED, progress)
        if page is not None:
            atomic_files.write(page, html(made).encode())
    if source is not None:
        options.show_skipped(source)
    if as_json:
        typer.echo(json.dumps(made.results))
    else:
        console_report.report(made.results)


def _report_detectors(bundle: Bundle, source: Frames | None, page: Path | None, threads: int, as_json: bool) -> None:
    """Measure a bundle of detectors."""
    from cachenet.models.report import detector_report
    from cachenet.shared.command import atomic_files

    if source is None:
        options.refuse("a report on detectors needs footage; give --data")
    with options.progress_bar() as progress:
        made = detector_report.report(bundle, source, threads, progress)
    if page is not None:
        atomic_files.write(page, detector_report.html(made).encode())
    options.show_skipped(source)
    if as_json:
        typer.echo(json.dumps(made.results))
    else:
        console_report.detector_report(made.results)


def inspect(
    full: Full,
    data: Data,
    preprocessing: Preprocessing = "",
    decoder: Decoder = "auto",
    labels: Labels = None,
    frame_step: FrameStep = 1,
    work: Work = None,
    threads: Threads = DEFAULT_THREADS,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--draw", help="PNG file for ten frames, as the model sees them, with its labels; or nine with its boxes."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a model takes, and its answers for your frames, before a build.

    Low confidence of a good classifier means that the preprocessing is wrong. Its answers are compared with those of
    ONNX Runtime alone. A wrong decoder or preprocessing of a detector shows in its boxes with --draw. The last lines
    have a verdict.

    Example: model-builder inspect --full model.onnx --data frames/ --preprocessing imagenet
    """
    with options.user_errors(data, sheet):
        options.check_paths(full=full, data=data, labels=labels)
        from cachenet.models.data.frames import find
        from cachenet.models.export.detector import is_detector

        if sheet is not None:
            if sheet.is_dir():
                options.refuse(f"{sheet} is a directory; give a file to draw to")
            options.check_writable("draw", sheet)
        if decoder != "auto" or is_detector(full):
            detector = options.read_detector(full, preprocessing, labels, decoder)
            frames = find(data, frame_step)
            found = _inspect_detector(detector, frames, threads, sheet)
        else:
            classifier = options.read_classifier(full, preprocessing, labels)
            frames = find(data, frame_step)
            found = _inspect_classifier(classifier, frames, options.work_directory(work), threads, sheet)
    if as_json:
        typer.echo(json.dumps(found))
        return
    console_report.inspection(found)
    options.show_skipped(frames)


def _inspect_classifier(
    classifier: Classifier, frames: Frames, work: Path, threads: int, sheet: Path | None
) -> dict[str, Any]:
    from cachenet.models.report import inspection

    with options.progress_bar() as progress:
        logits = options.run_full_model(classifier, frames, work, threads, progress)
        found = inspection.inspect(classifier, frames, logits, threads)
        if sheet is not None:
            inspection.draw(classifier, frames, logits, sheet)
    return dict(found)


def _inspect_detector(detector: DetectorModel, frames: Frames, threads: int, sheet: Path | None) -> dict[str, Any]:
    from cachenet.models.report import detector_inspection

    with options.progress_bar() as progress:
        task = progress.add_task("frames", total=None)
        made = detector_inspection.inspect(
            detector, frames, threads, lambda done: progress.update(task, completed=done)
        )
        if sheet is not None:
            detector_inspection.draw(detector, made, sheet)
    return dict(made.findings)
