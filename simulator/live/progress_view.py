"""Progress of a live comparison: one row a policy on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cachenet.edge_agent.outputs.report import AnswerLine, counts_text
from cachenet.shared.cascade.types import LOCAL_LEVELS

#: Levels of the device.
LOCAL = (*LOCAL_LEVELS, "full")
#: Most letters of an answer.
_WIDEST = 14
#: Plain lines a policy where there is no terminal.
_PLAIN_STEPS = 4


def shortened(text: str) -> str:
    """``text`` with at most ``_WIDEST`` letters."""
    return text if len(text) <= _WIDEST else text[: _WIDEST - 2] + ".."


class Tail:
    """Reader of the answers that a running agent appends to its output file."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._decoder = msgspec.json.Decoder(AnswerLine)

    def read(self) -> list[AnswerLine]:
        """New complete lines; none while there is no file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._at += len(complete)
        lines = (self._decoder.decode(line) for line in complete.splitlines())
        return [line for line in lines if not line.correction]


class ProgressView:
    """Progress of the policies, in turn. A row fits 80 columns. The context restores the terminal.

    Args:
        console: Where to print.
        policies: Names of the policies.
        frames: Frames of each policy.
    """

    def __init__(self, console: Console, policies: Sequence[str], frames: int) -> None:
        self._console, self._frames = console, frames
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(8),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks = {name: self._progress.add_task(name, total=frames, state="") for name in policies}

    def __enter__(self) -> ProgressView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, policy: str) -> None:
        """Start the row of ``policy``."""
        self._policy, self._done, self._local, self._ms = policy, 0, 0, 0.0
        self._show("starting")

    def add(self, lines: Sequence[AnswerLine]) -> None:
        """Count answers of the present policy."""
        for line in lines:
            self._done += 1
            self._local += line.level in LOCAL
            self._ms += line.latency_ms
            if not self._console.is_terminal and self._done * _PLAIN_STEPS % self._frames < _PLAIN_STEPS:
                self._console.print(f"{self._policy}: {self._done} of {self._frames} frames, {self._measures()}")
        if lines:
            newest = lines[-1]
            answer = newest.label if newest.counts is None else counts_text(newest.counts)
            self._show(f"{self._measures()}; {shortened(answer)} by {newest.level}")

    def end(self, skipped: bool = False) -> None:
        """End the row of the present policy."""
        if skipped:
            self._show("skipped")
            if not self._console.is_terminal:
                self._console.print(f"{self._policy}: skipped")
        else:
            self._show(self._measures() if self._done else "no frame answered")

    def _measures(self) -> str:
        return f"{100 * self._local / self._done:.0f}% local, mean {self._ms / self._done:.1f} ms"

    def _show(self, state: str) -> None:
        self._progress.update(self._tasks[self._policy], completed=self._done, state=state)
