"""Changing a bundle that is there: another submodel, another size, other promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cachenet.models.commands.options import (
    PROCESSORS,
    Data,
    Every,
    Existing,
    HeldOut,
    Json,
    Key,
    Quick,
    Scenes,
    Threads,
    Work,
    check_paths,
    conclude,
    full_of,
    gathered,
    kept,
    progress_bar,
    refuse,
    refusing,
    scenes_of,
    show_skipped,
    taught,
)
from cachenet.models.report import console_report
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import exit

if TYPE_CHECKING:
    from cachenet.models.data.frames import Frames
    from cachenet.shared.bundle.trust import Signer


def specialise(
    bundle: Existing,
    data: Data,
    held_out: Annotated[
        Path | None, typer.Option(help="Frames to tune with (default: the last three tenths of --data).")
    ] = None,
    recent: Annotated[
        Path | None, typer.Option(help="File of frames that devices sent, as a server writes it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory that the updated bundle goes to, in the place of any before.")
    ] = None,
    prepare: Annotated[bool, typer.Option(help="Whether the full model only looks at --data, ahead of need.")] = False,
    key: Key = None,
    every: Every = 1,
    work: Work = None,
    threads: Threads = PROCESSORS,
) -> None:
    """Add a submodel to a bundle for a working set that its devices see; 'cloud-server run --specialise' calls this.

    Ends with 3 where the submodel was not proven better than the base model: the bundle then stays as it was.

    Example: model-builder specialise build/mine --data frames/ --recent recent.npz --out build/updated
    """
    with refusing(out):
        if not prepare and (recent is None or out is None):
            refuse("give --recent and --out, or --prepare")
        check_paths(out, data=data, held_out=held_out, recent=recent, key=key)
        found, sources, signer = _given(bundle, out, (data, held_out), every, key)
        import torch

        from cachenet.models.train import fine_tune as specialising

        torch.set_num_threads(threads)
        classifier = full_of(found)
        with progress_bar() as progress:
            material = gathered(classifier, sources, kept(work), threads, progress)
            if recent is None or out is None:
                return
            sent = specialising.read(recent, found)
            try:
                made = specialising.specialise(found, sent, material, out, progress, signer)
            except specialising.Unproven as error:
                exit.say("model-builder", f"not proven: {error}")
                raise typer.Exit(3) from None
    typer.echo(f"Written: {out}, with {list(made.manifest.models)[-1]}")


def add_size(
    bundle: Existing,
    share: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Multiply-adds of the new model, as a share of the full model's.")
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="Directory that the bundle goes to, in the place of any before.")],
    held_out: HeldOut = None,
    scenes: Scenes = None,
    every: Every = 1,
    key: Key = None,
    quick: Quick = False,
    work: Work = None,
    threads: Threads = PROCESSORS,
    as_json: Json = False,
) -> None:
    """Add a general model of another size to a bundle, and certify it again: a smaller one answers most frames of a
    small device in less time.

    Example: model-builder add-size build/mine --share 0.02 --data frames/ --out build/mine
    """
    with refusing(out):
        check_paths(out, data=data, held_out=held_out, scenes=scenes, key=key)
        found, sources, signer = _given(bundle, out, (data, held_out), every, key)
        import torch

        from cachenet.models.build_config import QUICK, BuildConfig
        from cachenet.models.train import sizes

        torch.set_num_threads(threads)
        classifier = full_of(found)
        plan = replace(
            QUICK if quick else BuildConfig(found.manifest.name),
            shares=(share,),
            scenes=scenes_of(scenes, classifier.labels),
        )
        directory = kept(work)
        with progress_bar() as progress:
            material = gathered(classifier, sources, directory, threads, progress)
            made = sizes.add(plan, found, material, directory, out, progress, signer)
    conclude(made, sources, as_json)


def layers(
    bundle: Existing,
    data: Data,
    out: Annotated[Path, typer.Option(help="Directory that the bundle goes to, in the place of any before.")],
    held_out: HeldOut = None,
    most: Annotated[int, typer.Option(min=1, max=8, help="Number of caches at the most.")] = 5,
    wrong: Annotated[
        float,
        typer.Option(min=0.0001, max=0.2, help="Share of requests that the caches may answer unlike the full model."),
    ] = 0.005,
    every: Every = 1,
    key: Key = None,
    work: Work = None,
    threads: Threads = PROCESSORS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the caches as JSON on stdout.")] = False,
) -> None:
    """Add caches between the full model's layers, so that on the server most requests run only a part of it.

    Example: model-builder layers build/mine --data frames/ --out build/mine
    """
    with refusing(out):
        check_paths(out, data=data, held_out=held_out, key=key)
        found, sources, signer = _given(bundle, out, (data, held_out), every, key)
        import torch

        from cachenet.models.exits.build import Limits, build

        torch.set_num_threads(threads)
        classifier = full_of(found)
        with progress_bar() as progress:
            place = kept(work)
            material = gathered(classifier, sources, place, threads, progress)
            made = build(found, material, Limits(most, wrong=wrong), 0, threads, place, out, progress, signer)
    for frames in sources:
        show_skipped(frames)
    console_report.layers(made, as_json)


def prove(
    bundle: Existing,
    held_out: Annotated[Path, typer.Option(help="Frames that none of its models was trained on.")],
    out: Annotated[Path, typer.Option(help="Directory that the bundle goes to, in the place of any before.")],
    scenes: Scenes = None,
    every: Every = 1,
    key: Key = None,
    quick: Quick = False,
    work: Work = None,
    threads: Threads = PROCESSORS,
    as_json: Json = False,
) -> None:
    """Certify a bundle again, on footage of your own place; its models stay as they are.

    The first fifth of each video, or folder of pictures in order, is tuned on; the rest is what the bundle is certified
    on, in blocks of consecutive frames.

    Example: model-builder prove cifar10 --held-out frames/ --out build/here
    """
    with refusing(out):
        check_paths(out, held_out=held_out, scenes=scenes, key=key)
        found, [source], signer = _given(bundle, out, (held_out,), every, key)
        import torch

        from cachenet.models.build_config import QUICK, BuildConfig
        from cachenet.models.certify.recertify import again
        from cachenet.models.data.dataset import held

        torch.set_num_threads(threads)
        classifier = full_of(found)
        plan = replace(QUICK if quick else BuildConfig(""), scenes=scenes_of(scenes, classifier.labels))
        with progress_bar() as progress:
            lesson = taught(classifier, source, kept(work), threads, progress)
            tune, rest = held(classifier, (source, lesson))
            made = again(plan, found, tune, rest, out, progress, signer)
    conclude(made, [source], as_json)


def _given(
    bundle: Path, out: Path | None, data: Sequence[Path | None], every: int, key: Path | None
) -> tuple[Bundle, list[Frames], Signer | None]:
    """The bundle, the frames of each of ``data`` that was named, and who signs. Raises ``Refusal``, also where another
    thing than a bundle is at ``out``."""
    from cachenet.models.bundle_writer import check_place
    from cachenet.models.data.frames import find
    from cachenet.shared.bundle.trust import Signer

    if out is not None:
        check_place(out)

    found, sources = Bundle(zoo.find(bundle)), [find(source, every) for source in data if source is not None]
    return found, sources, Signer(key) if key is not None else None
