"""The stages of a command: progress bars on a terminal, lines anywhere else."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn

#: Shortest stage that has a line, seconds: what was stored by an earlier run is read in less.
_SHORTEST_S = 1.0
#: Time between two lines of a stage that is not finished, seconds.
_EVERY_S = 60.0
_ENDED = float("inf")


class Stages(Progress):
    """Progress bars of the stages of a command. Without a terminal: a line for each stage that has ended, and for a
    long one every minute.

    Example:
        with Stages(Console(stderr=True)) as progress:
            for frame in progress.track(frames, description="frames"):
                ...
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=console, disable=not console.is_terminal)
        #: Time of the last line of each stage, seconds since its start; ``_ENDED`` after its last line.
        self._printed_s: dict[TaskID, float] = {}

    def add_task(self, *args: Any, **options: Any) -> TaskID:
        self._end_finished()
        return super().add_task(*args, **options)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._print_due(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._print_due(task_id)

    def remove_task(self, task_id: TaskID) -> None:
        self._end(task_id)
        super().remove_task(task_id)

    def stop(self) -> None:
        self._end_finished()
        super().stop()

    def _end_finished(self) -> None:
        """Print the last lines of finished stages. A stage may print lines of its own after its last step."""
        for task in self.tasks:
            if task.finished:
                self._end(task.id)

    def _end(self, task_id: TaskID) -> None:
        """Print the last line of a stage."""
        task = self._tasks[task_id]
        seconds = task.finished_time or task.elapsed or 0.0
        if self._printed_s.get(task_id) != _ENDED and seconds >= _SHORTEST_S:
            self._print(task, f"done in {seconds:.0f} s")
        self._printed_s[task_id] = _ENDED

    def _print_due(self, task_id: TaskID) -> None:
        """Print a line of a stage that is not finished, if one is due."""
        task = self._tasks[task_id]
        seconds = task.elapsed or 0.0
        if not task.finished and seconds >= self._printed_s.get(task_id, 0.0) + _EVERY_S:
            self._printed_s[task_id] = seconds
            self._print(task, f"{_count(task)} after {seconds:.0f} s")

    def _print(self, task: Task, text: str) -> None:
        if self.disable and task.visible:
            self.console.print(f"{task.description}: {text}", highlight=False)


def _count(task: Task) -> str:
    return f"{task.completed:.0f}" if task.total is None else f"{task.completed:.0f} of {task.total:.0f}"
