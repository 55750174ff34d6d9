"""The table of a live comparison: one row a policy, that of CacheNet highlighted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from cachenet.simulator.live.outcome import CACHENET


def policy_table(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    """The table with ``columns``, beside that of the names, from the cells of each policy."""
    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("policy", no_wrap=True, vertical="bottom")
    for column in columns:
        grid.add_column(column, justify="right", vertical="bottom", no_wrap=True)
    for name, cells in rows.items():
        grid.add_row(name, *cells, style="bold green" if name == CACHENET else None)
    return grid
