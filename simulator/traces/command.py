"""The command ``simulator replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cachenet.shared.bundle import zoo
from cachenet.shared.command import exit
from cachenet.simulator.ending import end, progress_bar, reported

if TYPE_CHECKING:
    from cachenet.simulator.traces.replay import AnyAnswer


def replay(
    log: Annotated[Path, typer.Argument(help="Decision log that edge-agent has written (setting decision_log).")],
    stream_dir: Annotated[Path, typer.Option("--stream", help="Directory of the stream that the device answered.")],
    bundle: Annotated[Path, typer.Option(help=f"Bundle that the device answered with: {zoo.HELP}.")] = Path("cifar10"),
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="KEY=VALUE",
            help="Settings to answer the stream with, several separated by spaces: max_disagreement, max_object_error, "
            "audit_share, mode, deadline_ms, levels. Repeat the option for more columns.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Replay a device's decision log and check that every answer is the same to the last bit. The exit code is 1 if an
    answer differs.

    Run it on the machine that wrote the log: another processor's arithmetic may differ.

    With --what-if nothing is checked: the stream is answered under other settings, side by side with the log.

    Example: simulator replay d.jsonl --stream stream

    Example: simulator replay d.jsonl --stream stream --what-if max_disagreement=0.05 --what-if levels=frames,base
    """
    if changes:
        _what_if(log, stream_dir, bundle, changes, as_json)
        return
    from cachenet.shared.bundle.manifest import Bundle
    from cachenet.shared.inference.image import BadPicture
    from cachenet.simulator.traces.replay import replay as repeat

    with reported(also=BadPicture), progress_bar() as progress:
        task = progress.add_task("frames", total=None)
        found = repeat(log, Bundle(zoo.find(bundle)), stream_dir, lambda: progress.advance(task))
    if found.truncated:
        _say_truncated(log)
    if as_json:
        counts = {"frames": found.frames, "corrections": found.corrections, "identical": found.identical}
        counts["truncated"] = found.truncated
        print(msgspec.json.encode(counts).decode())
    else:
        print(
            f"{found.identical} of {found.frames + found.corrections} answers are the same to the last bit, "
            f"{found.corrections} corrections among them."
        )
    if found.first is not None:
        end(1, _difference(*found.first))


def _say_truncated(log: Path) -> None:
    exit.say("simulator", f"{log} ends within a line, which is not replayed: it was not written to its end")


def _what_if(log: Path, stream_dir: Path, bundle: Path, changes: list[str], as_json: bool) -> None:
    """Replay a log under other settings, and print them side by side."""
    from cachenet.shared.bundle.manifest import Bundle
    from cachenet.shared.inference.image import BadPicture
    from cachenet.simulator.report.what_if import measures, table
    from cachenet.simulator.traces.what_if import what_if

    with reported(also=BadPicture), progress_bar() as progress:
        task = progress.add_task("frames", total=None)
        found = what_if(
            log,
            Bundle(zoo.find(bundle)),
            stream_dir,
            changes,
            lambda done, total: progress.update(task, completed=done, total=total),
            lambda: _say_truncated(log),
        )
    if as_json:
        shown = {"columns": [measures(column) for column in found.columns], "computed": found.computed}
        print(msgspec.json.encode(shown).decode())
    else:
        print(table(found))


def _difference(logged: AnyAnswer | None, replayed: AnyAnswer | None) -> str:
    """What differs in two answers; objects and probabilities would fill a screen."""
    if logged is None or replayed is None:
        one = logged or replayed
        return f"frame {one.frame if one else 0}: the {'log' if logged is None else 'replay'} has no such answer"
    names = [name for name in logged.__struct_fields__ if getattr(logged, name) != getattr(replayed, name, None)]
    shown = [
        f"{name} {getattr(logged, name)!r} was logged, {getattr(replayed, name, None)!r} is replayed"
        if isinstance(getattr(logged, name), int | float | str)
        else f"{name} differ"
        for name in names
    ]
    return f"the first answer that differs is of frame {logged.frame}: " + "; ".join(shown)
