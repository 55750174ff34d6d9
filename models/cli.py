"""The command ``model-builder``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from shared.bundle import Bundle, BundleError, Manifest

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_stderr = Console(stderr=True)


@app.callback()
def _root() -> None:
    """Build the bundles that edge agents and cloud servers run.

    Example: model-builder train --smoke --out build/smoke
    """


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where the bundle goes.")] = Path("build/cifar10"),
    work: Annotated[
        Path | None, typer.Option(help="Checkpoints; an interrupted build goes on from them. Default: in the cache.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads to train with.", min=1)] = os.cpu_count() or 1,
    smoke: Annotated[bool, typer.Option(help="Tiny networks on the sample that ships: the whole path, fast.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the models as JSON on stdout.")] = False,
) -> None:
    """Train the CIFAR-10 bundle: full model, base model, submodels, gates.

    About two and a half hours on two cores; stop it at any time and give the same command again to go on.

    Example: model-builder train --out build/cifar10
    """
    try:
        import torch

        from models import build, cifar10, sample
        from models.cifar10 import Cifar10, DatasetError, cache_directory
    except ImportError as error:
        _refuse(f"training needs {error.name}; install it with: pip install 'cachenet[build]'")
    torch.set_num_threads(threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=_stderr) as progress:
            if smoke:
                preset, split = build.SMOKE, sample.load()
                part = [split.take(index) for index in _parts(len(split))]
                data = Cifar10(train=part[0], held=part[1], test=part[2])
            else:
                preset, data = build.CIFAR10, cifar10.load()
            directory = work or (out.with_name(out.name + ".work") if smoke else cache_directory() / "runs" / "cifar10")
            bundle = build.build(preset, data, directory, out, progress)
    except DatasetError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")
    _show(bundle.manifest, as_json)


@app.command()
def show(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on stdout.")] = False,
) -> None:
    """Check a bundle's digests and list its models.

    Example: model-builder show models/zoo/cifar10
    """
    try:
        _show(Bundle(bundle).manifest, as_json)
    except BundleError as error:
        _refuse(str(error))


@app.command()
def inspect(
    full: Annotated[Path, typer.Option(help="An image classifier, ONNX.")],
    data: Annotated[Path, typer.Option(help="A video, or a directory of pictures, class directories and videos.")],
    preprocessing: Annotated[
        str, typer.Option(help="How pictures are prepared: a preset's name, or JSON as in a bundle. Default: metadata.")
    ] = "",
    labels: Annotated[Path | None, typer.Option(help="Text file with a label a line.")] = None,
    embedding: Annotated[str | None, typer.Option(help="Tensor to take for the embedding.")] = None,
    every: Annotated[int, typer.Option(help="Of a video, every so many frames count.", min=1)] = 1,
    work: Annotated[Path | None, typer.Option(help="Where what the model said is kept. Default: in the cache.")] = None,
    threads: Annotated[int, typer.Option(help="Threads to run the model with.", min=1)] = os.cpu_count() or 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on stdout.")] = False,
) -> None:
    """See what a bundle would be built from: what your model takes, and what it says of your frames.

    The quickest way to find that pictures are prepared wrongly: a good model that is sure of nothing.

    Example: model-builder inspect --full model.onnx --data frames/ --preprocessing imagenet
    """
    try:
        from models.classifier import ClassifierError, preset, understand
        from models.frames import FramesError, find
        from models.inspection import inspect as look
        from models.teach import teach
    except ImportError as error:
        _refuse(f"this needs {error.name}; install it with: pip install 'cachenet[build]'")
    from models.cifar10 import cache_directory

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        known = tuple(labels.read_text().split("\n")) if labels is not None else None
        classifier = understand(
            full, preset(preprocessing) if preprocessing else None, known and tuple(filter(None, known)), embedding
        )
        frames = find(data, every)
        with Progress(*columns, console=_stderr, disable=not _stderr.is_terminal) as progress:
            task = progress.add_task("files", total=len(frames.files))
            lesson = teach(
                classifier,
                frames,
                work or cache_directory() / "lessons",
                threads,
                lambda done: progress.update(task, completed=done),
            )
    except (ClassifierError, FramesError) as error:
        _refuse(str(error))
    except UnicodeDecodeError:
        _refuse(f"{labels} is no text")
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")
    seen = look(classifier, frames, lesson)
    if as_json:
        typer.echo(json.dumps(seen))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in seen.items():
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {share:.1%}" for key, share in list(value.items())[:8])
            table.add_row(name, shown + (f" and {len(value) - 8} more" if len(value) > 8 else ""))
        elif isinstance(value, float):
            table.add_row(name, f"{value:.1%}")
        else:
            table.add_row(name, str(value))
    Console().print(table)
    for path, why in frames.broken.items():
        typer.echo(f"skipped {path}: {why}", err=True)


def _parts(count: int) -> tuple[Any, Any, Any]:
    import numpy as np

    return tuple(np.split(np.arange(count), [count * 5 // 10, count * 9 // 10]))  # type: ignore[return-value]


def _show(manifest: Manifest, as_json: bool) -> None:
    rows: dict[str, dict[str, Any]] = {
        name: {
            "role": model.role,
            "parameters": model.parameters,
            "macs": model.macs,
            "bytes": model.bytes,
            "ms": model.milliseconds,
            "mean_coverage": round(sum(model.coverage) / len(model.coverage), 4),
        }
        for name, model in manifest.models.items()
    }
    gates = {str(gate.max_false_hits): gate.risk for gate in manifest.gates}
    if as_json:
        typer.echo(json.dumps({"name": manifest.name, "models": rows, "gates": gates}))
        return
    table = Table(title=manifest.name, title_justify="left")
    for column in ("model", "role", "parameters", "MACs", "kB", "ms", "coverage"):
        table.add_column(column, justify="left" if column in ("model", "role") else "right")
    for name, row in rows.items():
        table.add_row(
            name,
            str(row["role"]),
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['macs'] / 1e6:.0f} M",
            f"{row['bytes'] / 1e3:.0f}",
            f"{row['ms']:.2f}",
            f"{row['mean_coverage']:.1%}",
        )
    proven = ", ".join(f"{risk:g} for {budget} false hits" for budget, risk in gates.items())
    table.caption = f"risk thresholds: {proven}"
    Console().print(table)


def _refuse(why: str) -> NoReturn:
    typer.echo(f"model-builder: {why}", err=True)
    raise typer.Exit(2)


def main() -> None:
    app()
