"""What differs between the live comparisons of classifiers and of detectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console
from rich.table import Table

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.version import VERSION
from cachenet.simulator.live.outcome import Outcome, Run, Setting


@dataclass(frozen=True)
class Options:
    """Options of a live comparison. None or empty: the default of the task.

    Attributes:
        bundle: The bundle.
        stream: Kind of stream of a classifier, or video of a detector.
        frames: Frames that every policy answers.
        fps: Frame rate, frames per second.
        seed: Seed of the stream and of the link.
        link: Name of the link profile.
        out: Directory of the results.
        slowdown: Factor by which models run slower on the device than on this machine.
    """

    bundle: Path = zoo.DIRECTORY / "campus"
    stream: str = ""
    frames: int | None = None
    fps: float | None = None
    seed: int = 0
    link: str = ""
    out: Path = Path("build")
    slowdown: float = 1.0


class LiveTask(ABC):
    """The comparison for the task of a bundle.

    Attributes:
        link: Default link profile.
        files: Names of the files that ``draw`` and the agents write into the directory of the results.
    """

    link: ClassVar[str]
    files: ClassVar[tuple[str, ...]]

    def __init__(self, options: Options, bundle: Bundle) -> None:
        """Raises ``UserError`` for a stream that does not exist."""
        self.options, self.bundle = options, bundle

    @abstractmethod
    def prepare(self, scratch: Path, console: Console) -> tuple[Path, Setting]:
        """Prepare the footage; return what the agents read, and the settings of the comparison.

        Args:
            scratch: Directory for temporary files.

        Raises:
            UserError: The footage cannot be used.
        """

    def setting(self, stream: str, frames: int, fps: float) -> Setting:
        """The settings of the comparison on ``frames`` frames of ``stream``."""
        options, manifest = self.options, self.bundle.manifest
        versions = {"cachenet": VERSION, "bundle": f"{manifest.name} {self.bundle.version}"}
        link = options.link or self.link
        return Setting(stream, frames, options.seed, link, fps, versions, options.slowdown)

    @abstractmethod
    def environment(self, policy: str) -> dict[str, str]:
        """Settings of a policy's agent, as variables of its environment. The agent of ``device-only`` has no link."""

    def lines(self, policy: str, lines: list[AnswerLine]) -> list[AnswerLine]:  # noqa: ARG002
        """The answers of a policy's agent with the levels that the report uses."""
        return lines

    @abstractmethod
    def outcome(self, policy: str, runs: Mapping[str, Run], setting: Setting) -> Outcome:
        """Measures of a policy's run. Raises ``Incomplete``."""

    @abstractmethod
    def table(self, outcomes: Mapping[str, Outcome]) -> Table:
        """The table of the outcomes by policy, at most 80 columns wide."""

    @abstractmethod
    def ranking(self, outcomes: Mapping[str, Outcome], setting: Setting) -> str:
        """The ranking of CacheNet with the settings, in a sentence."""

    @abstractmethod
    def draw(self, path: Path, runs: Mapping[str, Run], outcomes: Mapping[str, Outcome], setting: Setting) -> None:
        """Write the picture. Raises ``NoMatplotlib``."""
