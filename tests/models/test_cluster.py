"""Results do not depend on a Ray cluster, its number of nodes or killed workers. Skipped where Ray is missing."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest
from rich.progress import Progress

from cachenet.models.build import build
from cachenet.models.build_config import QUICK
from cachenet.models.certify import traces
from cachenet.models.data import sample
from cachenet.models.data.dataset import collect
from cachenet.models.data.frames import find
from cachenet.models.export.classifier import load_classifier
from cachenet.models.train.label import label_frames
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import jobs
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.jobs import Run
from cachenet.simulator.report import comparison
from cachenet.simulator.report.comparison import Setup

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "models" / "zoo" / "cifar10"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with one processor. Processes of a slow machine get time to load."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_agent_register_timeout_ms", "300000")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        node = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
        started = Cluster(initialize_head=True, head_node_args=node)
        yield started
        started.shutdown()


def dies_once(shared: tuple[Path, Any, Any], argument: Any) -> Any:
    """Call a function; the first process that has called it is killed before it gives the result."""
    marker, function, own = shared
    result = function(own, argument)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def killing(run: Run, marker: Path) -> Run:
    """``run``; of the jobs of each call, one is killed with its worker."""
    calls = itertools.count()

    def wrapped(function: Any, shared: Any, arguments: Any) -> Any:
        return run(dies_once, (marker.with_suffix(f".{next(calls)}"), function, shared), arguments)

    return wrapped


def refuses(_shared: None, text: str) -> None:
    raise UserError(text)


def test_comparisons_and_builds_are_the_same_on_any_cluster(cluster: Any, tmp_path: Path) -> None:
    bundle = Bundle(ZOO)
    base = bundle.manifest.only("base")
    setup = Setup(seeds=range(2), frames=100, policies=("server-only", "student"))
    models = {name: one for name, one in traces.open_models(bundle).items() if name in (base, "full")}

    def compared(run: Run) -> bytes:
        with Progress(disable=True) as progress:
            bench = comparison.prepare(bundle, setup, sample.load(), models, progress, run)
            found = comparison.summary(comparison.compare(bench, setup, None, progress, run))
        return msgspec.json.encode(found)

    split = sample.load()
    for number in range(300):
        folder = tmp_path / "data" / sample.LABELS[split.labels[number]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number:03}.png"), split.images[number][:, :, ::-1])
    classifier, frames = load_classifier(ZOO / "full" / "1" / "model.onnx"), find(tmp_path / "data")
    dataset = collect(classifier, (frames, label_frames(classifier, frames, tmp_path, 1)))
    config = replace(QUICK, name="tiny", epochs=1, shares=(1 / 200,), precision="float16")

    def built(name: str, run: Run) -> dict[str, str]:
        """Digests of the models, which certificates and priors follow from; measured times differ between builds."""
        with Progress(disable=True) as progress:
            models = build(config, dataset, tmp_path / name, tmp_path / f"{name}-out", progress, run).manifest.models
        return {name: model.sha256 for name, model in models.items()}

    results, bundles = [compared(jobs.in_process)], [built("alone", jobs.in_process)]
    for added in (0, 1):  # to 1 and 2 nodes
        for _ in range(added):
            cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        markers = tmp_path / f"compared-{added}", tmp_path / f"built-{added}"
        with jobs.connected(cluster.address) as run:
            results.append(compared(killing(run, markers[0])))
            bundles.append(built(f"cluster-{added}", killing(run, markers[1])))
            with pytest.raises(UserError, match=r"^the task's own error$"):
                list(run(refuses, None, ["the task's own error"]))
        assert all(len(list(tmp_path.glob(f"{marker.name}.*"))) == 2 for marker in markers), "a kill in each stage"
    assert len(set(results)) == 1
    assert all(one == bundles[0] for one in bundles) and len(bundles[0]) > 2
