"""A comparison as one self-contained page: how the latencies lie, what they cost in agreement, when the device answered
by itself, how it all changes with the link, and where each policy wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cachenet.edge_agent.outputs.report import Latencies
from cachenet.models.report.html_report import COLOURS, figure_of, image, page, table
from cachenet.simulator.policies.policies import OWN, Policy
from cachenet.simulator.report import comparison
from cachenet.simulator.report.comparison import BASELINES, Runs, Setup
from cachenet.simulator.report.sweep import Sweep
from cachenet.simulator.world.device import WINDOW

Found = Mapping[str, Mapping[str, Any]]


def html(setup: Setup, runs: Runs, found: Found, sweep: Sweep | None, swept: Sequence[Found]) -> str:
    """The page. ``swept``: what was found at each value of ``sweep``."""
    where = (
        f"stream <code>{setup.stream}</code>, device <code>{escape(setup.device)}</code>, link "
        f"<code>{escape(setup.link)}</code>, server <code>{escape(setup.server)}</code>, {len(setup.seeds)} seeds from "
        f"{setup.seeds.start}, {setup.frames} frames each, deadline {setup.deadline_ms:g} ms, {setup.devices} cameras "
        f"behind {setup.replicas} servers"
    )
    parts = [
        "<h1>Policies compared</h1>",
        f'<p class="faint">Replayed on virtual time: {where}. Decisions are the device\'s own; times are the '
        "profiles'.</p>",
        f"<p>{_claim(found)}</p>",
        _figures(found),
        "<h2>How long an answer takes</h2>",
        "<p>Share of frames that are answered within a time.</p>",
        image(_latencies(runs), "Cumulative distribution of latency, a curve for each policy"),
        "<h2>Agreement against latency</h2>",
        "<p>Answers that do not disagree with the full model; the budget is a disagreement of "
        f"{setup.max_disagreement:.1%}. Further left is faster, further up agrees more. The line joins "
        "those that nobody beats in both; <code>oracle</code> is a limit and no policy. Thresholds of the trivial "
        "policies are chosen in hindsight.</p>",
        image(_front(found), "Agreement against mean latency, a point for each policy"),
        "<h2>Hits over time</h2>",
        f"<p>Share of frames that the device answers by itself, seed {setup.seeds.start}.</p>",
        image(_course(runs), "Share of hits over the frames of the first stream"),
    ]
    if sweep is not None:
        parts += [
            f"<h2>As {escape(sweep.key)} changes</h2>",
            image(_curves(sweep, swept), f"Mean latency and local share against {sweep.key}"),
            table(
                (sweep.key, "fastest within the budget", "mean ms", "cachenet, mean ms"),
                [_winner(value, one, setup.max_disagreement) for value, one in zip(sweep.values, swept, strict=True)],
            ),
        ]
    return page("Policies compared", parts)


def _claim(found: Found) -> str:
    own = found.get(OWN, {})
    if "ratio_to_best_baseline" not in own:
        return ""
    best = min(_fair(found), key=lambda name: found[name]["latency_ms"]["mean"])
    ratio, (low, high) = own["ratio_to_best_baseline"], own["intervals"]["ratio_to_best_baseline"]
    truth = ""
    if "accuracy" in own:
        truth = f", and {own['accuracy']:.1%} of them are true ({best}: {found[best]['accuracy']:.1%})"
    return (
        f"CacheNet answers {ratio:.2f} times as fast on average as {best}, the better of {' and '.join(BASELINES)} "
        f"(95&nbsp;% interval {low:.2f} to {high:.2f}). {own['disagreement']:.2%} of its answers disagree with "
        f"the full model{truth}."
    )


def _fair(found: Found) -> list[Policy]:
    return comparison.fair({name: [{"agreement": found[name]["agreement"]}] for name in BASELINES if name in found})


def _figures(found: Found) -> str:
    powered = all("millijoules" in of for of in found.values())
    head = (
        "policy",
        "mean ms",
        "p50",
        "p95",
        "p99",
        "local",
        "asked",
        "disagreement",
        "bare agreement",
        "truth",
        "bytes up",
        "down",
        *(["mJ a frame", "of it radio"] if powered else ()),
    )
    rows = [
        (
            policy,
            *(f"{of['latency_ms'][name]:.2f}" for name in ("mean", "p50", "p95", "p99")),
            f"{of['local_share']:.1%}",
            f"{of['asked_share']:.1%}",
            f"{of['disagreement']:.2%}",
            f"{of['agreement']:.1%}",
            f"{of['accuracy']:.1%}" if "accuracy" in of else "-",
            f"{of['bytes_up']:,.0f}",
            f"{of['bytes_down']:,.0f}",
            *([f"{_energy(of):.1f}", f"{of['radio_millijoules']:.1f}"] if powered else ()),
        )
        for policy, of in found.items()
    ]
    return table(head, rows)


def _energy(of: Mapping[str, Any]) -> float:
    return float(of["millijoules"] + of["radio_millijoules"])


def _colours(names: Sequence[str]) -> dict[str, str]:
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def _latencies(runs: Runs) -> Figure:
    figure = figure_of(9, 4.4)
    axes = figure.subplots()
    colours = _colours(list(runs))
    for policy, own in runs.items():
        together = Latencies()
        for run in own:
            together = together.with_(run.latency)
        ms, share = together.curve()
        line: dict[str, Any] = {"color": colours[policy], "label": policy, "linewidth": 2.5 if policy == OWN else 1.3}
        axes.step([ms[0], *ms], [0, *(100 * np.array(share))], where="post", **line)
    axes.set(xlabel="milliseconds", ylabel="frames answered, %", xscale="log", ylim=(0, 101))
    _plain(axes.xaxis)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=2)
    return figure


def _front(found: Found) -> Figure:
    figure = figure_of(9, 4.6)
    axes = figure.subplots()
    at = {name: (of["latency_ms"]["mean"], 100 * (1 - of["disagreement"])) for name, of in found.items()}
    colours = _colours(list(found))
    front = _best({name: point for name, point in at.items() if name != "oracle"})
    axes.plot(*zip(*(at[name] for name in front), strict=True), color="#c9c9c9", zorder=0)
    for name, (ms, agreed) in at.items():
        axes.scatter(ms, agreed, s=50, color=colours[name], zorder=3 if name == OWN else 2)
    for names, (ms, agreed) in _together(at):
        axes.annotate(", ".join(names), (ms, agreed), xytext=(6, 5), textcoords="offset points", fontsize=9)
    axes.set(xlabel="mean latency, ms", ylabel="answers that do not disagree, %", xscale="log")
    _plain(axes.xaxis)
    axes.margins(x=0.15, y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _together(at: Mapping[str, tuple[float, float]]) -> list[tuple[list[str], tuple[float, float]]]:
    """Names whose points would hide each other's, with the first one's point."""
    found: list[tuple[list[str], tuple[float, float]]] = []
    for name, (ms, right) in at.items():
        for names, (their_ms, their_right) in found:
            if abs(math.log(ms / their_ms)) < 0.12 and abs(right - their_right) < 0.5:
                names.append(name)
                break
        else:
            found.append(([name], (ms, right)))
    return found


def _plain(axis: Any) -> None:
    """Numbers as people write them, on a logarithmic axis too."""
    axis.set_major_formatter(lambda value, _place: f"{value:g}")
    axis.set_minor_formatter(lambda value, _place: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")


def _best(at: Mapping[str, tuple[float, float]]) -> list[str]:
    """Those that no other beats in both, the fastest first."""
    front: list[str] = []
    for name in sorted(at, key=lambda name: (at[name][0], -at[name][1])):
        if not front or at[name][1] > at[front[-1]][1]:
            front.append(name)
    return front


def _course(runs: Runs) -> Figure:
    figure = figure_of(9, 3.2)
    axes = figure.subplots()
    shown = [name for name in (OWN, "cachenet-paper", "student+hold", "threshold-offload") if name in runs]
    colours = _colours(list(runs))
    for name in shown:
        share = runs[name][0].course
        axes.plot(np.arange(len(share)) * WINDOW, 100 * np.array(share), color=colours[name], label=name, linewidth=1.5)
    axes.set(xlabel="frame", ylabel="answered locally, %", ylim=(-2, 102))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=4)
    return figure


def _curves(sweep: Sweep, swept: Sequence[Found]) -> Figure:
    figure = figure_of(9, 6.4)
    above, below = figure.subplots(2, 1, sharex=True)
    names = list(swept[0])
    for name, colour in _colours(names).items():
        line = {"color": colour, "label": name, "marker": "o", "linewidth": 2.5 if name == OWN else 1.3}
        above.plot(sweep.values, [one[name]["latency_ms"]["mean"] for one in swept], **line)
        below.plot(sweep.values, [100 * one[name]["local_share"] for one in swept], **line)
    above.set(ylabel="mean latency, ms", xscale="log", yscale="log")
    below.set(xlabel=sweep.key, ylabel="answered locally, %", ylim=(-2, 102))
    for axis in (above.yaxis, below.xaxis):
        _plain(axis)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    above.legend(frameon=False, fontsize=8, ncols=3)
    return figure


def _winner(value: float, found: Found, budget: float) -> tuple[str, str, str, str]:
    """Who is fastest at this value among those that disagree with the full model within the budget."""
    within = {n: of["latency_ms"]["mean"] for n, of in found.items() if n != "oracle" and of["disagreement"] <= budget}
    name = min(within, key=within.__getitem__, default="nobody")
    own = found[OWN]["latency_ms"]["mean"] if OWN in found else math.nan
    return f"{value:g}", name, f"{within[name]:.2f}" if within else "-", f"{own:.2f}"
