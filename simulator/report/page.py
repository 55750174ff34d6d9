"""A comparison as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cachenet.edge_agent.outputs.report import LatencyHistogram
from cachenet.models.report.html_report import COLOURS, figure_of, image, page, table
from cachenet.simulator.policies.policies import CACHENET
from cachenet.simulator.report.comparison import BASELINES, Found, Runs, Setup, cells, fair
from cachenet.simulator.report.sweep import Sweep
from cachenet.simulator.world.device import WINDOW

#: Distance between two points of the front plot at which one label names both: logarithm of the latency, and points.
_CLOSE = 0.12, 0.5


def html(setup: Setup, runs: Runs, found: Found, sweep: Sweep | None, swept: Sequence[Found]) -> str:
    """The page; ``swept``: the result at each value of ``sweep``."""
    settings = (
        f"stream <code>{setup.stream}</code>, device <code>{escape(setup.device)}</code>, link "
        f"<code>{escape(setup.link)}</code>, server <code>{escape(setup.server)}</code>, {len(setup.seeds)} seeds from "
        f"{setup.seeds.start}, {setup.frames} frames each, deadline {setup.deadline_ms:g} ms, {setup.devices} cameras "
        f"behind {setup.replicas} servers"
    )
    head, rows = cells(found)
    parts = [
        "<h1>Policies compared</h1>",
        f'<p class="faint">Simulated on virtual time: {settings}. Decisions are the device\'s own; times come from the '
        "profiles.</p>",
        f"<p>{_ranking(found)}</p>",
        table([column.replace("-\n", "").replace("\n", " ") for column in head], rows),
        "<h2>Latency</h2>",
        "<p>Share of frames that are answered within a time.</p>",
        image(_latencies(runs), "Cumulative distribution of latency, a curve for each policy"),
        "<h2>Agreement against latency</h2>",
        "<p>Answers that do not disagree with the full model; the budget is a disagreement of "
        f"{setup.max_disagreement:.1%}. Further left is faster, further up agrees more. The line joins the policies "
        "that no other policy beats in both; <code>oracle</code> is a limit and no policy. Thresholds of the trivial "
        "policies are chosen in hindsight.</p>",
        image(_front(found), "Agreement against mean latency, a point for each policy"),
        "<h2>Hit rate over time</h2>",
        f"<p>Share of frames that the device answers by itself, seed {setup.seeds.start}.</p>",
        image(_hit_rate_over_time(runs), "Share of hits over the frames of the first stream"),
    ]
    if sweep is not None:
        parts += [
            f"<h2>As {escape(sweep.key)} changes</h2>",
            image(_curves(sweep, swept), f"Mean latency and local share against {sweep.key}"),
            table(
                (sweep.key, "fastest within the budget", "mean ms", "cachenet, mean ms"),
                [_fastest(value, one, setup.max_disagreement) for value, one in zip(sweep.values, swept, strict=True)],
            ),
        ]
    return page("Policies compared", parts)


def _ranking(found: Found) -> str:
    own = found.get(CACHENET, {})
    if "ratio_to_best_baseline" not in own:
        return ""
    baselines = fair({name: [{"agreement": found[name]["agreement"]}] for name in BASELINES if name in found})
    best = min(baselines, key=lambda name: found[name]["latency_ms"]["mean"])
    ratio, (low, high) = own["ratio_to_best_baseline"], own["intervals"]["ratio_to_best_baseline"]
    truth = ""
    if "accuracy" in own:
        truth = f", and {own['accuracy']:.1%} of them are true ({best}: {found[best]['accuracy']:.1%})"
    return (
        f"CacheNet answers {ratio:.2f} times as fast on average as {best}, the better of {' and '.join(BASELINES)} "
        f"(95&nbsp;% interval {low:.2f} to {high:.2f}). {own['disagreement']:.2%} of its answers disagree with "
        f"the full model{truth}."
    )


def _lines(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Style of each policy's line."""
    return {
        name: {
            "color": COLOURS[place % len(COLOURS)],
            "label": name,
            "linewidth": 2.5 if name == CACHENET else 1.3,
        }
        for place, name in enumerate(names)
    }


def _latencies(runs: Runs) -> Figure:
    figure = figure_of(9, 4.4)
    axes = figure.subplots()
    for line, own in zip(_lines(list(runs)).values(), runs.values(), strict=True):
        together = LatencyHistogram()
        for run in own:
            together = together.with_(run.latency)
        ms, share = together.curve()
        axes.step([ms[0], *ms], [0, *(100 * np.array(share))], where="post", **line)
    axes.set(xlabel="milliseconds", ylabel="frames answered, %", xscale="log", ylim=(0, 101))
    _plain_numbers(axes.xaxis)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=2)
    return figure


def _front(found: Found) -> Figure:
    figure = figure_of(9, 4.6)
    axes = figure.subplots()
    at = {name: (of["latency_ms"]["mean"], 100 * (1 - of["disagreement"])) for name, of in found.items()}
    front = _unbeaten({name: point for name, point in at.items() if name != "oracle"})
    axes.plot(*zip(*(at[name] for name in front), strict=True), color="#c9c9c9", zorder=0)
    for name, line in _lines(list(found)).items():
        axes.scatter(*at[name], s=50, color=line["color"], zorder=3 if name == CACHENET else 2)
    for names, point in _grouped(at):
        axes.annotate(", ".join(names), point, xytext=(6, 5), textcoords="offset points", fontsize=9)
    axes.set(xlabel="mean latency, ms", ylabel="answers that do not disagree, %", xscale="log")
    _plain_numbers(axes.xaxis)
    axes.margins(x=0.15, y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _grouped(at: Mapping[str, tuple[float, float]]) -> list[tuple[list[str], tuple[float, float]]]:
    """Names of points so close that their labels would overlap, with the first point."""
    found: list[tuple[list[str], tuple[float, float]]] = []
    for name, (ms, agreed) in at.items():
        for names, (other_ms, other_agreed) in found:
            if abs(math.log(ms / other_ms)) < _CLOSE[0] and abs(agreed - other_agreed) < _CLOSE[1]:
                names.append(name)
                break
        else:
            found.append(([name], (ms, agreed)))
    return found


def _plain_numbers(axis: Any) -> None:
    """Write 0.1, 1, 10 on a logarithmic axis, without exponents."""
    axis.set_major_formatter(lambda value, _place: f"{value:g}")
    axis.set_minor_formatter(lambda value, _place: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")


def _unbeaten(at: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of points that no other point beats in both coordinates, the fastest first."""
    front: list[str] = []
    for name in sorted(at, key=lambda name: (at[name][0], -at[name][1])):
        if not front or at[name][1] > at[front[-1]][1]:
            front.append(name)
    return front


def _hit_rate_over_time(runs: Runs) -> Figure:
    figure = figure_of(9, 3.2)
    axes = figure.subplots()
    for name, line in _lines(list(runs)).items():
        if name in (CACHENET, "cachenet-paper", "student+hold", "threshold-offload"):
            rates = runs[name][0].hit_rate  # type: ignore[index]
            axes.plot(np.arange(len(rates)) * WINDOW, 100 * np.array(rates), **{**line, "linewidth": 1.5})
    axes.set(xlabel="frame", ylabel="answered locally, %", ylim=(-2, 102))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=4)
    return figure


def _curves(sweep: Sweep, swept: Sequence[Found]) -> Figure:
    figure = figure_of(9, 6.4)
    above, below = figure.subplots(2, 1, sharex=True)
    for name, line in _lines(list(swept[0])).items():
        above.plot(sweep.values, [one[name]["latency_ms"]["mean"] for one in swept], marker="o", **line)
        below.plot(sweep.values, [100 * one[name]["local_share"] for one in swept], marker="o", **line)
    above.set(ylabel="mean latency, ms", xscale="log", yscale="log")
    below.set(xlabel=sweep.key, ylabel="answered locally, %", ylim=(-2, 102))
    for axis in (above.yaxis, below.xaxis):
        _plain_numbers(axis)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    above.legend(frameon=False, fontsize=8, ncols=3)
    return figure


def _fastest(value: float, found: Found, budget: float) -> tuple[str, str, str, str]:
    """Row of the sweep's table: the fastest policy whose disagreement keeps the budget."""
    within = {n: of["latency_ms"]["mean"] for n, of in found.items() if n != "oracle" and of["disagreement"] <= budget}
    name = min(within, key=within.__getitem__, default="none")
    own = found[CACHENET]["latency_ms"]["mean"] if CACHENET in found else math.nan
    return f"{value:g}", name, f"{within[name]:.2f}" if within else "-", f"{own:.2f}"
