"""Loading and delivery of models."""

from __future__ import annotations

import gc
import queue
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cachenet.cloud_server.serving.full_model import load_full
from cachenet.edge_agent.updates import loader as loader_module
from cachenet.edge_agent.updates import model_loading
from cachenet.shared.bundle.manifest import Bundle, file_digest
from cachenet.shared.inference.engine import EngineError, Logits, Provider, Session
from tests import faulty
from tests.bundles import classifier
from tests.edge_agent.loaders import (
    LoaderWithUpdater,
    Site,
    bundle,
    edited,
    ready,
    site,
    small_chunks_and_short_timeouts,
    until,
)

__all__ = ["bundle", "site", "small_chunks_and_short_timeouts"]

_BOUND_S = 30.0


def test_a_bundle_directory_serves_without_store_or_link(bundle: Bundle) -> None:
    loader = LoaderWithUpdater(None, None, "")
    loader.start()
    loader.use(bundle)
    loader.request("vehicles")
    first, second = ready(loader), ready(loader)
    assert (first.name, second.name) == ("base", "vehicles")
    assert not first.downloaded
    loader.stop()


def test_a_model_that_is_being_loaded_is_waited_for_at_the_end(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the interpreter ends under threads of the runtime, which aborts the process."""
    begun, may_end = threading.Event(), threading.Event()

    class Slow(Session):
        def __init__(self, *given: Any) -> None:
            begun.set()
            assert may_end.wait(_BOUND_S)
            super().__init__(*given)

    monkeypatch.setattr(model_loading, "Session", Slow)
    loader = LoaderWithUpdater(None, None, "")
    loader.start()
    loader.use(bundle)
    assert begun.wait(_BOUND_S)
    threading.Timer(1.5, may_end.set).start()
    loader.stop()
    assert may_end.is_set() and not loader._thread.alive
    assert not loader.error  # it did not fail: nobody wants it any more


def test_another_model_may_stand_in_for_the_base_and_none_is_loaded_where_none_is_needed(site: Site) -> None:
    loader = site.loader("full")
    loader.announce(site.bundle.data)
    loaded = ready(loader)
    assert (loaded.name, loaded.first) == ("full", True)
    none = site.loader(None)
    none.announce(site.bundle.data)
    until(lambda: none.version == site.bundle.version)
    with pytest.raises(queue.Empty):
        none.ready.get(timeout=0.2)


@pytest.mark.parametrize(("processors", "all_of_them", "threads"), [(4, 0.5, 4), (4, 0.9, 1), (2, 0.5, 1), (8, 0.8, 8)])
def test_all_processors_run_a_model_together_where_it_is_much_quicker(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, processors: int, all_of_them: float, threads: int
) -> None:
    """A run takes one second of the clock on one thread, and ``all_of_them`` on all."""
    clock, used = [0.0], []

    class Timed(Session):
        def __init__(self, path: Path, provider: Provider, threads: int, slowdown: float) -> None:
            super().__init__(path, provider, 1, slowdown)
            used.append(threads)
            self.takes = 1.0 if threads == 1 else all_of_them

        def run(self, batch: np.ndarray) -> Logits:
            clock[0] += self.takes
            return super().run(batch)

    monkeypatch.setattr(model_loading, "Session", Timed)
    monkeypatch.setattr(loader_module.os, "sched_getaffinity", lambda _: set(range(processors)))
    monkeypatch.setattr(model_loading.time, "perf_counter", lambda: clock[0])
    loader = LoaderWithUpdater(None, None, "", threads=0)
    loader.start()
    loader.use(bundle)
    loader.request("vehicles")
    first, second = ready(loader), ready(loader)
    loader.stop()
    assert loader.threads == threads
    assert (first.seconds, second.seconds) == (pytest.approx(1.0 if threads == 1 else all_of_them),) * 2
    assert used == ([1, threads, threads] if threads > 1 else [1, processors, 1] if processors >= 4 else [1, 1])


def test_a_missing_model_is_reported(site: Site) -> None:
    loader = site.loader()
    loader.announce(site.bundle.data)
    ready(loader)
    loader.request("nonsense")
    assert "no model nonsense; it has full, base" in loader.error


@pytest.mark.parametrize("what", ["labels", "file"])
def test_a_model_that_cannot_answer_is_never_handed_over_nor_tried_again(
    what: str, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong number of scores, or bytes that are no model. The models after it are none the worse."""
    broken = tmp_path / "broken"
    shutil.copytree(bundle.directory, broken)
    path = broken / "animals/1/model.onnx"
    if what == "file":
        path.write_bytes(b"no model")
    else:
        classifier(path, np.random.default_rng(0), classes=3)

    def refit(manifest: dict[str, Any]) -> None:
        model = manifest["models"]["animals"]
        model["sha256"], model["bytes"] = file_digest(path), path.stat().st_size

    edited(broken, refit)
    site = Site(tmp_path / "store", Bundle(broken))
    loader = site.loader()
    loader.announce(site.bundle.data)
    assert ready(loader).name == "base"
    loader.request("animals")
    loader.request("vehicles")
    assert ready(loader).name == "vehicles"
    assert "animals cannot be used" in caplog.text
    asked = len(site.server.asked)
    loader.request("animals")
    with pytest.raises(queue.Empty):
        loader.ready.get(timeout=0.2)
    assert len(site.server.asked) == asked
    site.close()


def test_it_keeps_no_reference_to_what_it_handed_over(site: Site) -> None:
    """Or dropping a submodel would free nothing until the next one is loaded."""
    loader = site.loader()
    loader.announce(site.bundle.data)
    loaded = ready(loader)
    until(lambda: not loader.is_pending("base"))
    session = weakref.ref(loaded.session)
    del loaded
    gc.collect()
    assert session() is None


def test_a_classifier_with_several_outputs_is_refused_when_it_is_loaded(bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load(str(bundle.path("full")))
    model.graph.output.append(onnx.helper.make_tensor_value_info(model.graph.node[0].output[0], 1, None))
    two = faulty.with_model(bundle, tmp_path / "two", model.SerializeToString(), "full")
    with pytest.raises(EngineError, match=r"model\.onnx: a classifier has one output, and this model has 2"):
        model_loading.open_model(two.manifest, "full", two.find, "cpu", 1)
    with pytest.raises(EngineError, match=r"model\.onnx: a classifier has one output, and this model has 2"):
        load_full(two, "cpu", 1)
