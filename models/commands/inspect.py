"""Commands that show a bundle, or a full model before a build."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
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
    from rich.progress import Progress

    from cachenet.models.data.dataset import LabelledFrames
    from cachenet.models.data.frames import Frames
    from cachenet.models.detect.footage import Block
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
    worst: Annotated[bool, typer.Option("--worst", help="List only the frames with most errors.")] = False,
    sheet: Annotated[Path | None, typer.Option("--draw", help="PNG file for the frames that --worst lists.")] = None,
    learning_curve: Annotated[
        bool,
        typer.Option("--learning-curve", help="Estimate only what more frames would gain. Trains for some minutes."),
    ] = False,
    work: Work = None,
    threads: Threads = DEFAULT_THREADS,
    as_json: Json = False,
) -> None:
    """Measure a bundle on frames that it was not built from.

    The report has the agreement with the full model, and the accuracy if the directories are named after labels. Of
    detectors it has hits, misses and false objects, by size and by part of the picture.

    Example: model-builder report cifar10 --html report.html

    Example: model-builder report build/mine --data later.mp4 --worst --draw worst.png

    Example: model-builder report build/mine --data later.mp4 --learning-curve
    """
    with options.user_errors(page):
        options.check_paths(data=data)
        if page is not None:
            options.check_writable("html", page)
        if sheet is not None:
            options.check_writable("draw", sheet)
        if sheet is not None and not worst:
            options.refuse("--draw is for --worst: give both")
        if page is not None and (worst or learning_curve):
            options.refuse("--html is for the whole report: leave out --worst and --learning-curve")
        from cachenet.models.data.frames import find

        found = Bundle(zoo.find(bundle))
        source = None if data is None else find(data, frame_step)
        if worst or learning_curve:
            _report_parts(found, source, worst, sheet, learning_curve, options.work_directory(work), threads, as_json)
            return
        if found.manifest.task == "detection":
            _report_detectors(found, source, page, threads, as_json)
            return
        import torch

        from cachenet.models.report import reporting
        from cachenet.models.report.page import html
        from cachenet.shared.command import atomic_files

        torch.set_num_threads(threads)
        with options.progress_bar() as progress:
            part, _ = _labelled(found, source, options.work_directory(work), threads, progress)
            made = reporting.report(found, part, streams, frames, _FIRST_SEED, progress)
        if page is not None:
            atomic_files.write(page, html(made).encode())
    if source is not None:
        options.show_skipped(source)
    if as_json:
        typer.echo(json.dumps(made.results))
    else:
        console_report.report(made.results)


def _labelled(
    bundle: Bundle, source: Frames | None, work: Path, threads: int, progress: Progress
) -> tuple[LabelledFrames, npt.NDArray[np.int64] | None]:
    """The frames of a report on classifiers with the full model's outputs, and the number of each frame's file.

    ``source``: None for the test images.
    """
    from cachenet.models.certify.traces import as_pictures
    from cachenet.models.data import cifar10, dataset
    from cachenet.models.train.label import look

    classifier = options.full_model(bundle)
    if source is not None:
        outputs = options.run_full_model(classifier, source, work, threads, progress)
        return dataset.all_frames(classifier, source, outputs), outputs.files
    if bundle.manifest.labels != cifar10.LABELS:
        options.refuse("no test images of these labels are known; give --data")
    test = cifar10.load().test
    return dataset.from_labelled(test, look(classifier, as_pictures(test.images), threads), classifier.input), None


def _report_parts(
    bundle: Bundle,
    source: Frames | None,
    worst: bool,
    sheet: Path | None,
    learning_curve: bool,
    work: Path,
    threads: int,
    as_json: bool,
) -> None:
    """Measure the frames behind most errors, the learning curve, or both."""
    import torch

    from cachenet.models.report import learning_curve as curve
    from cachenet.models.report import worst as frames_behind
    from cachenet.shared.command import atomic_files

    torch.set_num_threads(threads)
    results: dict[str, Any] = {"name": bundle.manifest.name, "version": bundle.version}
    with options.progress_bar() as progress:
        if bundle.manifest.task == "detection":
            if source is None:
                options.refuse("a report on detectors needs footage; give --data")
            block, files = _labelled_block(bundle, source, work, threads, progress)
            found = frames_behind.of_detector(bundle, block, source, files) if worst else None
            if learning_curve:
                results["learning_curve"] = curve.of_detector(bundle, block, progress)
        else:
            part, files = _labelled(bundle, source, work, threads, progress)
            sequences = source.sequences(files) if source is not None and files is not None else None
            numbers = np.zeros(len(part), np.int64) if sequences is None else sequences
            found = frames_behind.of_classifier(bundle, part, numbers, source, files) if worst else None
            if learning_curve:
                results["learning_curve"] = curve.of_classifier(bundle, part, numbers, progress)
    if found is not None:
        results["worst"] = found.results
        if sheet is not None and found.sheet is not None:
            atomic_files.write(sheet, found.sheet)
    if source is not None:
        options.show_skipped(source)
    if as_json:
        typer.echo(json.dumps(results))
    else:
        console_report.parts(results)


def _labelled_block(
    bundle: Bundle, source: Frames, work: Path, threads: int, progress: Progress
) -> tuple[Block, npt.NDArray[np.int64] | None]:
    """Footage as the devices' detector sees it, with the full model's objects; and the number of each frame's file."""
    from cachenet.models.detect.footage import read_block
    from cachenet.models.detect.update import model_of

    manifest = bundle.manifest
    device = manifest.better_detector() or manifest.only("base")
    full = replace(model_of(bundle, manifest.only("full")), labels=manifest.labels)
    block = read_block(full, source, manifest.models[device].input, work, threads, progress)
    if len(source.files) == 1:
        return block, np.zeros(len(block), np.int64)
    return block, np.arange(len(block)) if len(source.files) == len(block) and not source.broken else None


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
