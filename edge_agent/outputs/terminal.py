"""Live terminal view: label, level and latency of each camera."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import Camera
from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.outputs.drawing import COLOURS
from cachenet.shared.cascade.types import UNKNOWN
from cachenet.shared.command.text import printable
from cachenet.shared.inference.engine import resident_bytes

#: Updates per second.
_REFRESH_RATE = 4


class TerminalView:
    """Draws on standard error while the ``with`` block runs, in another thread."""

    def __init__(self, agent: Agent, console: Console) -> None:
        self._agent = agent
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=_REFRESH_RATE, transient=True)

    def __enter__(self) -> TerminalView:
        self._live.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _draw(self) -> Table:
        agent = self._agent
        table = Table.grid(padding=(0, 2))
        for camera in agent.cameras:
            self._add(table, camera)
        link = "no broker"
        if agent.link is not None:
            link = "connected" if agent.link.connected.is_set() else f"[red]{_text(agent.link.error)}[/]"
        table.add_row("broker", link, "", f"{resident_bytes() / 1e6:.0f} MB")
        return table

    def _add(self, table: Table, camera: Camera) -> None:
        if camera.title:
            table.add_row("camera", f"[bold]{_text(camera.title)}[/]")
        if (last := camera.last_answered) is None:
            table.add_row("waiting", _text(self._agent.error or "..."))
            return
        line = last.line
        if line.counts is None:
            answer = f"[bold]{_text(line.label)}[/] {'' if line.label == UNKNOWN else f'{line.confidence:.0%}'}"
        else:
            answer = f"[bold]{_text(report.counts_text(line.counts))}[/]"
        table.add_row(
            "label" if line.counts is None else "objects",
            answer,
            f"[{COLOURS[line.level]}]{line.level}[/] ({_text(line.model)})",
            f"{line.latency_ms:.1f} ms",
        )
        for zone, by_label in (line.zone_counts or {}).items():
            table.add_row("", f"{_text(zone)}: {_text(report.counts_text(by_label))}")
        tally = camera.tally
        total = max(1, tally.frames)
        counts = tally.levels()
        shares = "  ".join(f"[{COLOURS[name]}]{name}[/] {n / total:.1%}" for name, n in counts.items())
        table.add_row("frames", f"{tally.frames}", shares, f"mean {camera.latencies.mean:.1f} ms")
        table.add_row("submodels", _text(", ".join(camera.active_bundle.submodels)) or "none yet")
        if (audits := report.audits(camera.cascade)) is not None and audits["judged"]:
            table.add_row(
                "audits",
                f"{audits['judged']} hits",
                report.agreement(audits),
                f"threshold {audits['threshold']:.3f}",
            )
        source = camera.source
        if source.dropped or source.broken or source.losses:
            table.add_row(
                "source",
                f"{source.dropped} dropped",
                f"[red]{_text(source.error)}[/]" if source.error else f"{source.losses} times lost",
                f"{source.broken} broken",
            )


def _text(text: str) -> str:
    """``text`` without control characters and rich markup."""
    return escape(printable(text))
