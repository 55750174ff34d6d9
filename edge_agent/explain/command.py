"""The command ``edge-agent explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cachenet.edge_agent.explain import text
from cachenet.edge_agent.explain.explanation import explain as explain_record
from cachenet.edge_agent.explain.records import find, read
from cachenet.edge_agent.explain.summary import summarise
from cachenet.edge_agent.outputs.decision_reader import DAMAGE
from cachenet.shared.command import exit
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import shown


def explain(
    log: Annotated[Path, typer.Argument(help="Decision log that edge-agent has written (setting decision_log).")],
    frame: Annotated[
        int | None, typer.Option(min=0, help="Number of the frame to explain (default: a summary of the log).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Explain why a frame was answered on the device or sent to the cloud, from a decision log.

    Shown are the levels that were tried, the risk of each answer against its limit, where the risk comes from, and what
    would have changed the decision. Without --frame the output summarises the log and names frames to look at.

    Example: edge-agent run clip.mp4 --bundle campus --set decision_log=d.jsonl && edge-agent explain d.jsonl --frame 42
    """

    def on_truncated() -> None:
        exit.say("edge-agent", f"{shown(log)} ends within a line, which is left out: it was not written to its end")

    try:
        if frame is None:
            found = summarise(read(log, on_truncated))
            output = text.of_log(found, shown(log))
        else:
            found = explain_record(find(log, frame, on_truncated))  # type: ignore[assignment]
            output = text.of_frame(found)  # type: ignore[arg-type]
    except UserError as error:
        exit.refuse("edge-agent", str(error))
    except OSError as error:
        exit.refuse("edge-agent", f"{log}: {error.strerror}")
    except DAMAGE as error:
        why = f"{type(error).__name__}: {error}"
        exit.refuse("edge-agent", f"{shown(log)} is damaged: its values do not fit each other ({why})")
    typer.echo(msgspec.json.encode(found).decode() if as_json else output)
