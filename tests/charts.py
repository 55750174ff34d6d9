"""The Helm chart, rendered by Helm's own library.

``python -m tests.charts`` writes the plain manifests, which are the chart with its default values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "docker/helm/cachenet"
MANIFESTS = ROOT / "docker/kubernetes/cachenet.yaml"

_HEADER = """\
# Brokers and servers of CacheNet for Kubernetes (docs/kubernetes.md): the chart docker/helm/cachenet with its default
# values. Do not edit: change the chart and run python -m tests.charts.
"""


def text(values: dict[str, Any] | None = None) -> str:
    """What ``helm template cachenet docker/helm/cachenet`` prints, with these values."""
    from helm_python.chart import Chart

    with Chart.load(CHART) as chart:
        rendered = chart.render(values, name="cachenet")
    return "\n".join(f"---\n{rendered[name].strip()}" for name in sorted(rendered) if rendered[name].strip()) + "\n"


def objects(manifests: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of manifests, by kind and name."""
    found = [one for one in yaml.safe_load_all(manifests) if one is not None]
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(by_name) == len(found), "two objects have one name"
    return by_name


if __name__ == "__main__":
    MANIFESTS.write_text(_HEADER + text())
