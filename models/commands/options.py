"""Options that several commands of ``model-builder`` have, and steps that they share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress

from cachenet.models.build_config import QUICK, BuildConfig, BuildSettings
from cachenet.models.commands.stages import Stages
from cachenet.models.report import console_report, remarks
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import config, exit
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.extras import how_to_install
from cachenet.shared.command.file_names import shown
from cachenet.shared.command.threads import default_threads

if TYPE_CHECKING:
    from cachenet.models.data.dataset import Dataset
    from cachenet.models.data.frames import Frames
    from cachenet.models.export.classifier import Classifier
    from cachenet.models.export.detector import DetectorModel
    from cachenet.models.train.label import TeacherLogits

stderr = Console(stderr=True)
DEFAULT_THREADS = default_threads()


def _setting(name: str, **limits: Any) -> Any:
    """The option for a setting that other commands share with ``build``."""
    default, text = config.default_of(BuildSettings, name)
    stated = default not in ("none", "required", "off", "1", "auto")
    return typer.Option(help=f"{text}  [default: {default}]" if stated else text, **limits)


Existing = Annotated[Path, typer.Argument(help=f"The bundle: {zoo.HELP}.")]
Full = Annotated[Path, _setting("full")]
Data = Annotated[Path, _setting("data")]
Out = Annotated[Path, _setting("out")]
HeldOut = Annotated[Path | None, _setting("held_out")]
Preprocessing = Annotated[str, _setting("preprocessing")]
Decoder = Annotated[str, _setting("decoder")]
Labels = Annotated[Path | None, _setting("labels")]
FrameStep = Annotated[int, _setting("frame_step", min=1)]
Scenes = Annotated[Path | None, _setting("scenes")]
Quick = Annotated[bool, _setting("quick")]
Work = Annotated[Path | None, _setting("work")]
Threads = Annotated[
    int, typer.Option(help="Threads of the command; by default OMP_NUM_THREADS, or one per processor.", min=1)
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def show_skipped(frames: Frames) -> None:
    for path, why in frames.broken.items():
        typer.echo(f"skipped {shown(path)}: {why}", err=True)
    for path, remark in frames.remarks.items():
        typer.echo(f"{shown(path)}: {remark}", err=True)


def progress_bar() -> Progress:
    return Stages(stderr)


def work_directory(work: Path | None) -> Path:
    """The directory of intermediate results: ``work``, or one in the user's cache."""
    from cachenet.models.data.cifar10 import cache_directory

    return work or cache_directory() / "teacher-logits"


def config_of(name: str, quick: bool, scenes: Path | None, labels: tuple[str, ...]) -> BuildConfig:
    """Configuration of a command that changes a bundle."""
    return replace(QUICK if quick else BuildConfig(name), scenes=read_scenes(scenes, labels))


def run_full_model(
    classifier: Classifier, frames: Frames, work: Path, threads: int, progress: Progress
) -> TeacherLogits:
    """Outputs of the full model for the frames."""
    from cachenet.models.train.label import label_frames

    task = progress.add_task("full model", total=len(frames.files))
    return label_frames(classifier, frames, work, threads, lambda done: progress.update(task, completed=done))


def collect_dataset(
    classifier: Classifier, sources: Sequence[Frames], work: Path, threads: int, progress: Progress
) -> Dataset:
    """The labelled frames of a build. ``sources``: frames for training, and held-out frames if there are any."""
    from cachenet.models.data.dataset import collect

    first, *rest = [(frames, run_full_model(classifier, frames, work, threads, progress)) for frames in sources]
    return collect(classifier, first, rest[0] if rest else None)


def show_result(bundle: Bundle, sources: Sequence[Frames], as_json: bool) -> None:
    """Show skipped files, remarks on the bundle, and its models."""
    for frames in sources:
        show_skipped(frames)
    for line in remarks.remarks(bundle.manifest):
        typer.echo(line, err=True)
    console_report.models(bundle, as_json)
    typer.echo(f"Written: {bundle.directory}. Next: cloud-server run --bundle {bundle.directory}", err=True)


@dataclass(frozen=True)
class Inputs:
    """What a command that changes a bundle works on."""

    bundle: Bundle
    classifier: Classifier
    sources: list[Frames]
    work: Path
    threads: int
    progress: Progress

    def dataset(self) -> Dataset:
        return collect_dataset(self.classifier, self.sources, self.work, self.threads, self.progress)


@contextmanager
def inputs(
    bundle: Path,
    out: Path | None,
    frame_step: int,
    work: Path | None,
    threads: int,
    scenes: Path | None = None,
    **data: Path | None,
) -> Iterator[Inputs]:
    """Check the paths of a command, read its inputs and show its progress. ``data``: frames, by option."""
    with user_errors(out):
        check_paths(out, scenes=scenes, **data)
        from cachenet.models.bundle_writer import check_target
        from cachenet.models.data.frames import find
        from cachenet.shared.inference.image import parse_region

        if out is not None:
            check_target(out)
        found = Bundle(zoo.find(bundle))
        region = found.manifest.provenance.get("region")  # the frames are cut as for the build
        cut = parse_region(region) if region else None
        sources = [find(path, frame_step, cut) for path in data.values() if path is not None]
        import torch

        torch.set_num_threads(threads)
        with progress_bar() as progress:
            yield Inputs(found, full_model(found), sources, work_directory(work), threads, progress)


def full_model(bundle: Bundle) -> Classifier:
    """The full model of a bundle, with the input and labels of the manifest."""
    from cachenet.models.export.classifier import load_classifier

    if bundle.manifest.task != "classification":
        refuse(f"{bundle.directory} is a bundle of detectors, and this command is for classifiers")
    model = bundle.manifest.models[bundle.manifest.only("full")]
    return load_classifier(bundle.directory / model.file, model.input, bundle.manifest.labels)


def read_classifier(full: Path, preprocessing: str, labels: Path | None, embedding: str = "") -> Classifier:
    """The full model of a user. Raises ``ClassifierError``."""
    from cachenet.models.export.classifier import load_classifier, parse_preprocessing

    names = read_labels(labels) if labels is not None else None
    return load_classifier(
        full, parse_preprocessing(preprocessing) if preprocessing else None, names, embedding or None
    )


def read_detector(full: Path, preprocessing: str, labels: Path | None, decoder: str) -> DetectorModel:
    """The full model of a user, a detector; ``decoder``: its kind, or ``auto``. Raises ``UserError``."""
    from cachenet.models.export.detector import load_detector
    from cachenet.models.export.preprocessing import parse_preprocessing
    from cachenet.shared.inference.decoders import DECODER_KINDS

    kind = next((kind for kind in DECODER_KINDS if kind == decoder), None)
    if kind is None and decoder != "auto":
        refuse(f"--decoder {decoder} is none of auto, {', '.join(DECODER_KINDS)}")
    names = read_labels(labels) if labels is not None else None
    return load_detector(full, parse_preprocessing(preprocessing) if preprocessing else None, names, kind)


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels in a text file, one a line."""
    try:
        names = tuple(filter(None, map(str.strip, path.read_text("utf-8-sig").splitlines())))
    except UnicodeDecodeError:
        refuse(f"{path} is no text")
    if not names or len(set(names)) < len(names):
        refuse(f"{path} has {'a label twice' if names else 'no labels'}; give each label a line of its own")
    return names


def read_scenes(path: Path | None, labels: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Indices of the labels that appear together, from a JSON file."""
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


def check_paths(out: Path | None = None, **inputs: Path | None) -> None:
    """Refuse a missing input path, and an ``out`` that cannot be made. Commands call this before they import torch.

    Args:
        inputs: Paths by the names of their options.
    """
    for name, path in inputs.items():
        if path is not None and not path.exists():
            refuse(f"--{name.replace('_', '-')} {path} is not there")
    if out is not None:
        check_writable("out", out)


def check_writable(name: str, path: Path) -> None:
    """Refuse the ``path`` of the option ``name`` if it cannot be made."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        refuse(f"--{name} {path}: {above} is no directory")
    if not os.access(above, os.W_OK | os.X_OK):
        refuse(f"--{name} {path}: {above} cannot be written")


@contextmanager
def user_errors(*paths: Path | None) -> Iterator[None]:
    """End the command with one line and exit code 2 on an error that the user can correct.

    Args:
        paths: Paths that the command writes, for errors of the file system without a path.
    """
    try:
        yield
    except UserError as error:
        refuse(str(error), error.code)
    except ImportError as error:
        refuse(f"this needs {error.name}; {how_to_install('build')}")
    except OSError as error:
        refuse(f"{error.filename or ' or '.join(map(str, paths))}: {error.strerror or error}")


def refuse(why: str, code: int = 2) -> NoReturn:
    exit.say("model-builder", why)
    raise typer.Exit(code)
