"""Looking at a bundle, and at a model before there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cachenet.models.commands.options import (
    PROCESSORS,
    Data,
    Embedding,
    Every,
    Existing,
    Full,
    Labels,
    Preprocessing,
    Threads,
    Work,
    check_paths,
    check_writable,
    full_of,
    kept,
    progress_bar,
    refuse,
    refusing,
    show_skipped,
    taught,
    understand,
)
from cachenet.models.report import console_report
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle


def show(
    bundle: Existing,
    trusted_key: Annotated[
        Path | None, typer.Option(help="File of a public key; a bundle that it has not signed is refused.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on stdout.")] = False,
) -> None:
    """Check a bundle's digests and list its models.

    Example: model-builder show cifar10
    """
    with refusing(bundle):
        check_paths(trusted_key=trusted_key)
        from cachenet.shared.bundle.trust import Key

        found = Bundle(zoo.find(bundle))
        if trusted_key is not None and not Key(trusted_key).vouches(found.data, found.signature):
            what = "another signature than" if found.signature else "no signature of"
            refuse(f"{bundle} has {what} {trusted_key}'s")
    console_report.models(found, as_json)


def report(
    bundle: Existing,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Frames that the bundle was not made from (default: the test images, for CIFAR-10's labels)."
        ),
    ] = None,
    every: Every = 1,
    streams: Annotated[int, typer.Option(help="Number of streams to play.", min=1)] = 20,
    frames: Annotated[int, typer.Option(help="Number of frames of a stream.", min=16)] = 1000,
    first_seed: Annotated[int, typer.Option(help="Seed of the first stream.", min=0)] = 3000,
    page: Annotated[Path | None, typer.Option("--html", help="File to write a page with pictures to.")] = None,
    work: Work = None,
    threads: Threads = PROCESSORS,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on stdout.")] = False,
) -> None:
    """Measure what a bundle is worth on frames that it was not made from.

    Agreement with the full model is reported always, and accuracy where the folders have the names of labels.

    Example: model-builder report cifar10 --html report.html
    """
    with refusing(page):
        check_paths(data=data)
        if page is not None:
            check_writable("html", page)
        from cachenet.models.data.frames import find

        found = Bundle(zoo.find(bundle))
        source = None if data is None else find(data, every)
        import torch

        from cachenet.models.certify import recorded
        from cachenet.models.data import cifar10, dataset
        from cachenet.models.report import reporting
        from cachenet.models.report.page import html
        from cachenet.models.train.label import look
        from cachenet.shared.command import atomic_files

        torch.set_num_threads(threads)
        classifier = full_of(found)
        if source is None and found.manifest.labels != cifar10.LABELS:
            refuse("no test images of these labels are known; give --data")
        with progress_bar() as progress:
            if source is None:
                test = cifar10.load().test
                lesson = look(classifier, recorded.as_pictures(test.images), threads)
                part = dataset.labelled(test, lesson, classifier.input)
            else:
                lesson = taught(classifier, source, kept(work), threads, progress)
                part = dataset.whole(classifier, source, lesson)
            made = reporting.report(found, part, streams, frames, first_seed, progress)
        if page is not None:
            atomic_files.write(page, html(made).encode())
    if source is not None:
        show_skipped(source)
    if as_json:
        typer.echo(json.dumps(made.figures))
    else:
        console_report.report(made.figures)


def inspect(
    full: Full,
    data: Data,
    preprocessing: Preprocessing = "",
    labels: Labels = None,
    embedding: Embedding = None,
    every: Every = 1,
    work: Work = None,
    threads: Threads = PROCESSORS,
    drawn: Annotated[
        Path | None,
        typer.Option("--draw", help="Write ten frames, as the model sees them, with its labels, to this PNG file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on stdout.")] = False,
) -> None:
    """See what a bundle would be built from: what your model takes, and what it says of your frames.

    The quickest way to find that pictures are prepared wrongly: a good model that is sure of nothing. Its answers are
    compared with those of ONNX Runtime alone, and the last line says what to think of it.

    Example: model-builder inspect --full model.onnx --data frames/ --preprocessing imagenet
    """
    with refusing(data, drawn):
        check_paths(full=full, data=data, labels=labels)
        from cachenet.models.data.frames import find
        from cachenet.models.report.inspection import draw
        from cachenet.models.report.inspection import inspect as look

        if drawn is not None and drawn.is_dir():
            refuse(f"{drawn} is a directory; give a file to draw to")
        classifier = understand(full, preprocessing, labels, embedding)
        frames = find(data, every)
        with progress_bar() as progress:
            lesson = taught(classifier, frames, kept(work), threads, progress)
            seen = look(classifier, frames, lesson, threads)
            if drawn is not None:
                draw(classifier, frames, lesson, drawn)
    if as_json:
        typer.echo(json.dumps(seen))
        return
    console_report.inspected(seen)
    show_skipped(frames)
