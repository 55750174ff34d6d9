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
