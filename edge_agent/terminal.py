"""The live terminal view: what is seen, who answered, how fast."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from edge_agent import report
from edge_agent.agent import Agent
from edge_agent.source import Source
from shared.engine import resident_bytes

_PER_SECOND = 4
LEVEL_COLOURS = {
    "frames": "cyan",
    "submodels": "green",
    "base": "blue",
    "full": "magenta",
    "cloud": "yellow",
    "fallback": "red",
}


class View:
    """Draws on stderr while the ``with`` block runs, from a thread of its own; the hot loop never waits for it."""

    def __init__(self, agent: Agent, source: Source, console: Console) -> None:
        self._agent, self._source = agent, source
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=_PER_SECOND, transient=True)

    def __enter__(self) -> View:
        self._live.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _draw(self) -> Table:
        agent, now, tally = self._agent, self._agent.now, self._agent.tally
        table = Table.grid(padding=(0, 2))
        if now.answer is None:
            table.add_row(
                "waiting", escape(agent.keeper.trouble or (agent.link.trouble if agent.link else "") or "...")
            )
            return table
        level = now.answer.level
        table.add_row(
            "sees",
            f"[bold]{escape(now.label)}[/] {now.answer.confidence:.0%}",
            f"[{LEVEL_COLOURS[level]}]{level}[/] ({now.answer.model})",
            f"{now.latency_ms:.1f} ms",
        )
        total = max(1, tally.frames)
        counts = tally.levels()
        shares = "  ".join(f"[{LEVEL_COLOURS[name]}]{name}[/] {n / total:.1%}" for name, n in counts.items())
        table.add_row("frames", f"{tally.frames}", shares, f"mean {agent.latencies.mean:.1f} ms")
        link = "no network asked for"
        if agent.link is not None:
            link = "connected" if agent.link.connected.is_set() else f"[red]{escape(agent.link.trouble)}[/]"
        submodels = agent.hierarchy.submodels if agent.hierarchy is not None else None
        resident = ", ".join(submodels.names()) if submodels is not None else ""
        table.add_row("broker", link, f"submodels: {resident or 'none yet'}", f"{resident_bytes() / 1e6:.0f} MB")
        if (found := report.audits(agent.hierarchy)) is not None and found["windows"]:
            table.add_row(
                "audits",
                f"{found['windows']} windows",
                report.found(found),
                f"gate {found['threshold']:.3f}",
            )
        if self._source.dropped or self._source.broken:
            table.add_row("source", f"{self._source.dropped} dropped", f"{self._source.broken} broken", "")
        return table
