"""What the commands of ``model-builder`` have in common: options, and ways to begin and to end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cachenet.models.report import console_report, remarks
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import exit
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.extras import how_to_install
from cachenet.shared.command.file_names import shown

if TYPE_CHECKING:
    from cachenet.models.data.dataset import Dataset
    from cachenet.models.data.frames import Frames
    from cachenet.models.export.classifier import Classifier
    from cachenet.models.train.label import TeacherLogits

stderr = Console(stderr=True)
PROCESSORS = os.cpu_count() or 1
Full = Annotated[Path, typer.Option(help="File of an image classifier, ONNX.")]
Existing = Annotated[Path, typer.Argument(help=f"The bundle: {zoo.HELP}.")]
Data = Annotated[Path, typer.Option(help="Frames: a video, or a directory of pictures, class directories and videos.")]
Preprocessing = Annotated[
    str,
    typer.Option(
        help="Way to prepare pictures for the model: a preset (imagenet, efficientnet-lite, unit, signed, caffe, raw), "
        "with words after it (imagenet,stretch,bgr or unit,letterbox,320x180), or JSON as in a bundle (default: the "
        "model's metadata)."
    ),
]
Labels = Annotated[Path | None, typer.Option(help="Text file with a label a line (default: the model's metadata).")]
Embedding = Annotated[
    str | None,
    typer.Option(
        help="Name of the tensor to take for the embedding (default: what the last layer with weights sees, or the "
        "scores)."
    ),
]
Every = Annotated[int, typer.Option(help="Step between the frames of a video that count.", min=1)]
Work = Annotated[
    Path | None, typer.Option(help="Directory for intermediate results, to go on from (default: in the user's cache).")
]
Threads = Annotated[int, typer.Option(help="Threads to work with; by default one for each processor.", min=1)]
HeldOut = Annotated[
    Path | None, typer.Option(help="Footage to tune on and to certify with (default: the last three tenths of --data).")
]
Scenes = Annotated[
    Path | None,
    typer.Option(
        help="JSON file of lists of labels that come together. With pictures in a folder for each label, which are no "
        "footage, the bundle is certified on streams that are drawn of them by these lists."
    ),
]
Key = Annotated[Path | None, typer.Option(help="File of the private key to sign with; 'model-builder keys' makes one.")]
Quick = Annotated[
    bool, typer.Option(help="Whether every stage runs in a minute; the bundle is good for nothing but a try.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the models as JSON on stdout.")]


def show_skipped(frames: Frames) -> None:
    for path, why in frames.broken.items():
        typer.echo(f"skipped {shown(path)}: {why}", err=True)
    for path, remark in frames.remarks.items():
        typer.echo(f"{shown(path)}: {remark}", err=True)


def progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=stderr, disable=not stderr.is_terminal)


def kept(work: Path | None) -> Path:
    """Where what is made on the way is kept."""
    from cachenet.models.data.cifar10 import cache_directory

    return work or cache_directory() / "lessons"


def taught(classifier: Classifier, frames: Frames, work: Path, threads: int, progress: Progress) -> TeacherLogits:
    """What the full model says of the frames."""
    from cachenet.models.train.label import teach

    task = progress.add_task("full model's look", total=len(frames.files))
    return teach(classifier, frames, work, threads, lambda done: progress.update(task, completed=done))


def gathered(
    classifier: Classifier, sources: Sequence[Frames], work: Path, threads: int, progress: Progress
) -> Dataset:
    """What a bundle is built from. ``sources``: of frames, and those that are held out if there are any."""
    from cachenet.models.data.dataset import gather

    first, *rest = [(frames, taught(classifier, frames, work, threads, progress)) for frames in sources]
    return gather(classifier, first, rest[0] if rest else None)


def conclude(bundle: Bundle, sources: Sequence[Frames], as_json: bool) -> None:
    """Say what was left out, what could not be certified, and what is in the bundle."""
    for frames in sources:
        show_skipped(frames)
    for line in remarks.remarks(bundle.manifest):
        typer.echo(line, err=True)
    console_report.models(bundle, as_json)


def full_of(bundle: Bundle) -> Classifier:
    """The full model of a bundle, understood as the bundle says."""
    from cachenet.models.export.classifier import understand

    model = bundle.manifest.models[bundle.manifest.only("full")]
    return understand(bundle.directory / model.file, model.input, bundle.manifest.labels)


def understand(full: Path, preprocessing: str, labels: Path | None, embedding: str | None) -> Classifier:
    from cachenet.models.export.classifier import preset, understand

    try:
        known = (
            None if labels is None else tuple(filter(None, map(str.strip, labels.read_text("utf-8-sig").splitlines())))
        )
    except UnicodeDecodeError:
        refuse(f"{labels} is no text")
    if known is not None and (not known or len(set(known)) < len(known)):
        refuse(f"{labels} has {'a label twice' if known else 'no labels'}; give each label a line of its own")
    return understand(full, preset(preprocessing) if preprocessing else None, known, embedding)


def scenes_of(path: Path | None, labels: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """The numbers of the labels that come together."""
    if path is None:
        return ()
    import msgspec

    try:
        scenes = msgspec.json.decode(path.read_bytes(), type=list[list[str]])
    except msgspec.DecodeError:
        refuse(f'{path} is no JSON of lists of labels, as in [["cat", "dog"], ["car", "truck"]]')
    unknown = [label for scene in scenes for label in scene if label not in labels]
    if unknown or not all(scenes):
        refuse(f"{path}: {f'the model has no label {unknown[0]!r}' if unknown else 'a scene is empty'}")
    return tuple(tuple(sorted({labels.index(label) for label in scene})) for scene in scenes)


def check_paths(out: Path | None = None, **given: Path | None) -> None:
    """Refuse a path that an option of this name was given and that is not there, and an ``out`` that cannot be made.
    Commands call this before they ask for torch."""
    for name, path in given.items():
        if path is not None and not path.exists():
            refuse(f"--{name.replace('_', '-')} {path} is not there")
    if out is not None:
        check_writable("out", out)


def check_writable(name: str, path: Path) -> None:
    """Refuse a ``path``, given by the option of this name, that cannot be made."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        refuse(f"--{name} {path}: {above} is no directory")
    if not os.access(above, os.W_OK | os.X_OK):
        refuse(f"--{name} {path}: {above} cannot be written")


@contextmanager
def refusing(*given: Path | None) -> Iterator[None]:
    """What cannot be used, or written to one of the paths ``given``, and a package that is not there, is one line and
    exit code 2."""
    try:
        yield
    except UserError as error:
        refuse(str(error), error.code)
    except ImportError as error:
        refuse(f"this needs {error.name}; {how_to_install('build')}")
    except OSError as error:
        refuse(f"{error.filename or ' or '.join(map(str, given))}: {error.strerror or error}")


def refuse(why: str, code: int = 2) -> NoReturn:
    exit.say("model-builder", why)
    raise typer.Exit(code)
