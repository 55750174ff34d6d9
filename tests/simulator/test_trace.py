"""Traces: a stream on disk gives the trace of the generated stream, and a comparison runs on it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.progress import Progress

from cachenet.models.certify import traces
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.media import recording
from cachenet.simulator.report import comparison
from cachenet.simulator.report.comparison import Setup
from cachenet.simulator.traces.trace import Recorder, record_directory, record_streams

FRAMES = 40


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("held")
    images = sample.load()
    streams.record_stream(streams.schedule("held", images.labels, 3, FRAMES), images.images, out, cifar10.LABELS)
    return out


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(Path("models/zoo/cifar10"))


def test_a_stream_on_disk_gives_the_trace_of_the_generated_stream(directory: Path, bundle: Bundle) -> None:
    base = bundle.manifest.only("base")
    models = {name: one for name, one in traces.open_models(bundle).items() if name == base}
    recorder = Recorder(bundle, models, base)
    from_disk = record_directory(directory, bundle.manifest.labels, recorder)
    [generated] = record_streams("held", [3], FRAMES, sample.load(), recorder)
    assert from_disk.truth is not None and generated.truth is not None
    np.testing.assert_array_equal(from_disk.truth, generated.truth)
    np.testing.assert_array_equal(from_disk.pictures.logits[base], generated.pictures.logits[base])
    np.testing.assert_array_equal(from_disk.pictures.nbytes, generated.pictures.nbytes)


def test_a_recording_without_true_labels_is_compared_without_accuracy(
    directory: Path, bundle: Bundle, tmp_path: Path
) -> None:
    for path in directory.glob("*.png"):
        (tmp_path / path.name).symlink_to(path)
    unknown = msgspec.structs.replace(recording.read(directory), truth=None, labels=())
    (tmp_path / recording.MANIFEST).write_bytes(msgspec.json.encode(unknown))
    setup = Setup(
        stream=str(tmp_path), frames=FRAMES, seeds=range(2), policies=("cachenet", "server-only", "student", "oracle")
    )
    with Progress(disable=True) as progress:
        bench = comparison.prepare(bundle, setup, sample.load(), traces.open_models(bundle), progress)
        runs = comparison.compare(bench, setup, None, progress)
    assert bench.traces[0].truth is None
    found = comparison.summary(runs)
    assert found["oracle"]["disagreement"] == found["server-only"]["disagreement"] == 0.0
    assert all("accuracy" not in of for of in found.values())
    assert {"disagreement", "agreement", "asked_share", "unknown_share"} <= set(found["cachenet"])
    comparison.table(found)
    # The power of a Pi and its radio is known. Every seed has the same pictures over another link.
    assert found["cachenet"]["millijoules"] > 0 and found["cachenet"]["radio_millijoules"] > 0
    assert runs["server-only"][0].row["mean"] != runs["server-only"][1].row["mean"]
    assert runs["server-only"][0].row["agreement"] == runs["server-only"][1].row["agreement"]
