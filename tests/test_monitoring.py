"""The files for Prometheus and Grafana name metrics that agents and servers have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from cachenet.cloud_server.serving.counters import Counters
from cachenet.cloud_server.serving.metrics import MetricsCollector as ServerMetrics
from cachenet.cloud_server.serving.server import Server
from cachenet.edge_agent.doctor.health import Health
from cachenet.edge_agent.outputs.metrics import MetricsCollector as AgentMetrics
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates.updater import Updater
from cachenet.shared.bundle.manifest import Bundle
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures, served

DOCKER = Path(__file__).parents[1] / "docker"
_NAME = re.compile(r"cachenet_\w+")
#: Ends of the names of samples, of a counter and of a summary.
_ENDS = re.compile(r"_(total|sum|count)$")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of all families of an agent with audits and an update, and of a server."""
    bundle = Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"), risk=0.999))
    agent = served(Settings(levels=("base", "cloud"), audit_share=0.5), Pictures(20, same=True), bundle, lambda: 0)
    agent.run(JsonLinesWriter(""))
    agent.updater = cast(Updater, SimpleNamespace(state="committed", error=""))
    server = cast(Server, SimpleNamespace(counters=Counters(), waiting=0, connected=True))
    collected = [*AgentMetrics(agent, Health(agent)).collect(), *ServerMetrics(server).collect()]
    return {family.name for family in collected}


def expressions(file: Any) -> list[str]:
    """All values of ``expr`` and ``query`` in a file."""
    if isinstance(file, list):
        return [text for one in file for text in expressions(one)]
    if not isinstance(file, dict):
        return []
    own = [value for key, value in file.items() if key in ("expr", "query") and isinstance(value, str)]
    return own + [text for value in file.values() for text in expressions(value)]


@pytest.mark.parametrize("file", ["prometheus/cachenet.rules.yml", "grafana/cachenet.json"])
def test_every_metric_that_is_named_exists(file: str, metrics: set[str]) -> None:
    text = (DOCKER / file).read_text()
    named = {name for one in expressions(yaml.safe_load(text)) for name in _NAME.findall(one)}
    assert len(named) >= 5
    assert {name for name in named if _ENDS.sub("", name) not in metrics} == set()


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    places = [one["gridPos"] for one in json.loads((DOCKER / "grafana/cachenet.json").read_text())["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_prometheus_reads_the_rules_that_lie_beside_it() -> None:
    configuration = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
    assert all((DOCKER / "prometheus" / name).exists() for name in configuration["rule_files"])
