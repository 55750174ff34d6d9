"""Early exits: training of heads, selection of exits, and their certification."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

from cachenet.models.certify.traces import as_pictures
from cachenet.models.cli import app
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.exits import activations, certify, freeze, train_heads
from cachenet.models.exits.activations import record, record_to_disk
from cachenet.models.exits.build import ExitsError, Limits, build
from cachenet.models.exits.head_graph import HeadGraph
from cachenet.models.exits.heads import HeadTimes
from cachenet.models.exits.replay import exit_scores, picture, recorded_exits
from cachenet.models.exits.select import PRICES, ExitChoice, compose, expected, thresholds
from cachenet.models.exits.sites import Site, find_sites, shapes
from cachenet.models.export.classifier import load_classifier
from cachenet.models.export.export import export
from cachenet.models.train.networks import ResNet, Shape
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, file_digest
from cachenet.shared.cascade.rates import clopper_pearson_upper
from cachenet.shared.inference.early_exit import FEATURES, SCORES, RequestContext, load
from cachenet.shared.inference.engine import ModelPart, Session
from cachenet.shared.inference.exit_cost import ExitCostModel
from cachenet.shared.inference.graph_split import cut, read
from cachenet.shared.inference.image import preprocessor
from tests.bundles import INPUT, LABELS, SIDE, tiny_bundle

pytestmark = pytest.mark.slow

COUNT = 240


@pytest.fixture(scope="module", autouse=True)
def fast_training() -> Iterator[None]:
    """One thread trains such small networks faster, and few steps suffice for pictures of one colour."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_heads, "_STEPS", 250)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a convolutional full model."""
    directory = tiny_bundle(tmp_path_factory.mktemp("bundle"))
    torch.manual_seed(3)
    network = ResNet(Shape(widths=(24, 48, 64), blocks=(2, 2, 2), classes=len(LABELS))).eval()
    prepare = preprocessor(INPUT)
    batch = torch.from_numpy(np.concatenate([prepare(picture) for picture in as_pictures(colours(99))]))
    with torch.no_grad():  # scaled, so that the labels of the pictures differ
        logits = network(batch)
        network.head.weight.mul_(4 / logits.std())
        network.head.bias.copy_(-network(batch).mean(0) + network.head.bias)
    path = directory / "full" / "1" / "model.onnx"
    export(network, path, {})
    data = msgspec.json.decode((directory / MANIFEST).read_bytes())
    data["models"]["full"] |= {"sha256": file_digest(path), "bytes": path.stat().st_size}
    (directory / MANIFEST).write_bytes(msgspec.json.encode(data))
    return Bundle(directory)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> ModelProto:
    return onnx.load(str(bundle.path("full")))


def colours(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (COUNT, 1, 1, 3)) + rng.normal(0, 8, (COUNT, SIDE, SIDE, 3))
    return np.clip(images, 0, 255).astype(np.uint8)


def part(bundle: Bundle, seed: int) -> LabelledFrames:
    """Pictures of one colour each, so that heads can learn the full model's answers."""
    pictures = colours(seed)
    prepare = preprocessor(INPUT)
    batch = np.concatenate([prepare(picture) for picture in as_pictures(pictures)])
    scores = Session(bundle.path("full"), "cpu").run(batch)
    return LabelledFrames(pictures, scores, np.zeros((COUNT, 2), np.float32), None, (), INPUT)


@pytest.fixture(scope="module")
def dataset(bundle: Bundle) -> Dataset:
    classifier = load_classifier(bundle.path("full"), INPUT, LABELS)
    return Dataset(classifier, *(part(bundle, seed) for seed in range(3)))


@pytest.fixture(scope="module")
def sites(model: ModelProto) -> list[Site]:
    return find_sites(model, SIDE)


@pytest.mark.usefixtures("no_recordings")
def test_an_interrupted_recording_resumes(
    model: ModelProto, sites: list[Site], dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "_PIECE", 100)
    pictures = as_pictures(dataset.learn.images)
    whole = record(model, sites, INPUT, pictures, 1)

    def interrupt(done: int) -> None:
        if done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_to_disk(model, sites, INPUT, pictures, 1, tmp_path, interrupt)
    [counter] = tmp_path.glob("*.done")
    assert counter.read_text() == "100"
    resumed = record_to_disk(model, sites, INPUT, pictures, 1, tmp_path)
    assert resumed.keys() == whole.keys()
    for name in whole:
        np.testing.assert_allclose(resumed[name].astype(float), whole[name].astype(float), atol=0.02)


@pytest.mark.parametrize("kind", ["centroids", *train_heads.KINDS])
def test_the_file_of_a_head_gives_the_scores_of_the_head(
    kind: train_heads.Kind, model: ModelProto, sites: list[Site], dataset: Dataset, tmp_path: Path
) -> None:
    site = sites[len(sites) // 2]
    pictures = as_pictures(dataset.learn.images)
    each = [record(model, [site], INPUT, pictures, 1)[name] for name in site.features]
    answers = dataset.learn.full_labels
    head = (
        freeze.fit(each, answers, len(LABELS), 0)
        if kind == "centroids"  # type: ignore[comparison-overlap]
        else train_heads.train(kind, each, dataset.learn.scores, 0)
    )
    graph = HeadGraph(site, shapes(model, SIDE))
    path = tmp_path / "head.onnx"
    graph.write(*head.write(graph), len(LABELS), path, {})
    run = ModelPart(path.read_bytes(), "head", "cpu")
    prepare = preprocessor(INPUT)
    first = ModelPart(cut(read(model.SerializeToString()), [site.tensors])[0].model, "segment", "cpu")
    tensors = first.run({"image": np.concatenate([prepare(picture) for picture in pictures])})
    outputs = run.run(tensors)
    scores = head.scores(each)
    assert (outputs[SCORES].argmax(1) == scores.argmax(1)).mean() > 0.95
    assert outputs[FEATURES].shape[0] == COUNT and outputs[FEATURES].ndim == 2
    assert (outputs[SCORES].argmax(1) == answers).mean() > np.bincount(answers).max() / COUNT, (
        "better than the most frequent label"
    )


risks = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=12, max_size=12)


@given(st.lists(risks, min_size=1, max_size=4), st.integers(1, 3), st.floats(0, 0.3))
@settings(deadline=None, max_examples=40)
def test_the_best_set_is_within_its_limits_and_none_is_faster(
    drawn: list[list[tuple[float, bool]]], most: int, wrong: float
) -> None:
    candidates = [
        ExitChoice(place, np.array([r for r, _ in own]), np.array([w for _, w in own]), 0.01, 10)
        for place, own in enumerate(drawn)
    ]
    reached, whole = [0.2 * (place + 1) for place in range(len(drawn))], 1.0
    best = compose(candidates, reached, whole, most, 20, wrong)
    assert len(best.chosen) <= min(most, 2), "the size limit allows two"
    assert best.wrong <= wrong and best.seconds <= whole
    for count in range(1, min(most, 2) + 1):
        for some in combinations(candidates, count):
            for price in PRICES:
                seconds, errors = expected(some, thresholds(some, reached, whole, price), reached, whole)
                assert errors > wrong or seconds >= best.seconds - 1e-12


def test_the_expected_time_and_errors_are_those_of_a_run() -> None:
    """The hits of two exits are correlated."""
    first = ExitChoice(0, np.array([0.0, 1.0, 1.0, 1.0]), np.array([True, False, False, False]), 0.1, 1)
    second = ExitChoice(1, np.array([0.0, 0.0, 1.0, 1.0]), np.array([False, True, False, False]), 0.1, 1)
    seconds, wrong = expected([first, second], [0.5, 0.5], [1.0, 2.0], 4.0)
    assert wrong == 0.5
    assert seconds == pytest.approx((1.1 + 2.2 + 4.2 + 4.2) / 4)


def test_more_frames_certify_a_looser_threshold() -> None:
    rng = np.random.default_rng(0)
    risk = rng.random(4000) * 0.2
    wrong = rng.random(4000) < risk
    own = [ExitChoice(0, risk, wrong, 0.0, 1)]
    found = certify.certify(own, HeadTimes((0.2,), 1.0), 0.01, 0.95)
    assert found is not None
    [limit] = found
    share = (wrong & (risk <= limit)).mean()
    assert 0 < limit < 0.2 and share < 0.01
    assert clopper_pearson_upper(round(share * 4000), 4000, 0.95) <= 0.01
    few = [ExitChoice(0, risk[:100], wrong[:100], 0.0, 1)]
    assert certify.certify(few, HeadTimes((0.2,), 1.0), 0.01, 0.95) is None, (
        "a hundred frames cannot certify one percent"
    )


def test_a_head_with_more_confidence_than_the_whole_model_gets_a_reserve() -> None:
    """Its confidence in the label is calibrated."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.3), 500)
    scores = (4.0 * np.log(np.maximum(probabilities, 1e-9))).astype(np.float32)
    degree = certify.fit_head_temperature(scores, probabilities.astype(np.float32))
    assert degree < 1.0
    assert degree * certify.reserve(scores, probabilities, degree) == pytest.approx(4.0, rel=5e-3)


@pytest.mark.parametrize(("errors", "of", "bound"), [(0, 299, 0.00997), (5, 1000, 0.01048), (40, 1000, 0.05175)])
def test_the_bound_on_a_rate_is_that_of_clopper_and_pearson(errors: int, of: int, bound: float) -> None:
    assert clopper_pearson_upper(errors, of, 0.95) == pytest.approx(bound, rel=2e-3)


@pytest.fixture(scope="module")
def made(bundle: Bundle, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("made")
    with Progress(console=Console(file=io.StringIO())) as progress:
        return build(bundle, dataset, Limits(3, 0.5, 0.05), 0, 1, directory / "work", directory / "out", progress)


def test_the_exits_of_a_bundle_answer_like_its_full_model(bundle: Bundle, made: Bundle) -> None:
    manifest = made.manifest
    assert manifest.models == bundle.manifest.models
    layers = manifest.layers["gati"]
    assert 1 <= len(layers.caches) <= 3
    assert {file.split("/")[0] for file in manifest.files()} >= {"gati-1", "freeze-1"}
    model = load(made.manifest, "gati", made.find, "cpu", 1, random.Random(0).random)
    prepare = preprocessor(INPUT)
    fresh = part(bundle, 9)
    results = [model.run(prepare(picture), [RequestContext()])[0] for picture in as_pictures(fresh.images)]
    assert sum(one.layer is not None for one in results) > COUNT / 4
    wrong = [one.label != answer for one, answer in zip(results, fresh.full_labels, strict=True)]
    assert np.mean(wrong) <= 0.1


def test_a_replayed_model_answers_like_the_real_one(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """With context and checks, over recorded scores."""
    monkeypatch.setattr(ExitCostModel, "should_probe", lambda _: True)  # measured times of such small heads are random
    fresh = as_pictures(colours(9))
    scores, whole = exit_scores(made, ["gati"], fresh, 1)
    recorded = recorded_exits(made.manifest, "gati", scores["gati"], whole, random.Random(0).random)
    real = load(made.manifest, "gati", made.find, "cpu", 1, random.Random(0).random)
    prepare = preprocessor(INPUT)
    layers = set()
    for number, shown in enumerate(fresh):
        context = [RequestContext((0, 1, number % 3), 0.1)]
        [one], [other] = recorded.run(picture(number), context), real.run(prepare(shown), context)
        assert (one.layer, one.label) == (other.layer, other.label)
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-3)
        layers.add(one.layer)
    assert len(layers) > 1


def test_a_model_without_sites_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    flat = Bundle(tiny_bundle(tmp_path / "flat"))
    with Progress(console=Console(file=io.StringIO())) as progress, pytest.raises(ExitsError, match="no place"):
        build(flat, dataset, Limits(), 0, 1, tmp_path / "work", tmp_path / "out", progress)
    assert not (tmp_path / "out").exists()


def test_an_error_of_the_command_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["exits", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1 and "is no bundle" in done.stderr
