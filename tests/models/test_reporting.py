"""``model-builder report``: results, tables and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from cachenet.models.certify import traces
from cachenet.models.cli import app
from cachenet.models.data import sample
from cachenet.models.data.scenes import SCENES
from cachenet.shared.bundle.manifest import Bundle

pytestmark = pytest.mark.slow

ZOO = Path(__file__).parents[2] / "models/zoo/cifar10"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 test images, by label."""
    directory = tmp_path_factory.mktemp("data")
    split = sample.load().take(np.arange(150))
    for number, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
        (directory / sample.LABELS[label]).mkdir(exist_ok=True)
        cv2.imwrite(str(directory / sample.LABELS[label] / f"{number}.png"), image[:, :, ::-1])
    return directory


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The results and the page of the shipped bundle."""
    work = tmp_path_factory.mktemp("work")
    command = ["report", ZOO, "--data", data, "--work", work, "--streams", 2, "--frames", 200, "--threads", 1]
    done = CliRunner().invoke(app, [*map(str, command), "--html", str(work / "report.html"), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), (work / "report.html").read_text("utf-8")


def test_every_model_is_measured_against_the_labels_and_the_full_model(made: tuple[dict[str, Any], str]) -> None:
    results, _ = made
    manifest = Bundle(ZOO).manifest
    assert list(results["models"]) == list(manifest.models)
    for name, row in results["models"].items():
        model = manifest.models[name]
        assert (row["parameters"], row["macs"], row["bytes"]) == (model.parameters, model.macs, model.bytes)
        assert 0.6 < row["accuracy"] <= 1
        assert (row["agreement"] == 1) == (model.role == "full")
    assert results["frames"] == 150


def test_session_streams_are_replayed_over_all_scenes_and_the_unseen(made: tuple[dict[str, Any], str]) -> None:
    results, _ = made
    assert set(results["replays"]) == {"selected", "same_size_generalist", "all"}
    for places in results["replays"].values():
        assert set(places) == {"session", "session, unseen"}
        for row in places.values():
            assert 0 < row["asked"] < 0.9
            assert row["disagreement"] < 0.06
    assert any(scene.unseen for scene in SCENES)


def test_footage_is_replayed_in_its_order(data: Path, tmp_path: Path) -> None:
    """No streams are drawn from pictures without labels."""
    flat = tmp_path / "frames"
    flat.mkdir()
    for number, path in enumerate(sorted(data.rglob("*.png"))[:60]):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    command = ["report", ZOO, "--data", flat, "--work", tmp_path / "work", "--threads", 1, "--json"]
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    assert {tuple(places) for places in json.loads(done.stdout)["replays"].values()} == {("footage",)}


def test_scores_are_compared_on_every_local_model(made: tuple[dict[str, Any], str]) -> None:
    results, _ = made
    assert set(results["scores"]) == set(results["models"]) - {"full"}
    for own in results["scores"].values():
        assert set(own) == {"entropy", "probability", "margin", "energy", "learned"}
    for name, pairs in results["confusions"].items():
        counts = [pair["frames"] for pair in pairs]
        assert counts == sorted(counts, reverse=True)
        assert sum(counts) <= round(150 * (1 - results["models"][name]["agreement"]))
        assert all(pair["full"] != pair["says"] for pair in pairs)


def test_the_page_is_self_contained_and_names_every_model(made: tuple[dict[str, Any], str]) -> None:
    results, page = made
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page and "@import" not in page
    assert page.count("data:image/png;base64,") == 4
    for name in results["models"]:
        assert name in page


def test_early_exits_are_measured(made: tuple[dict[str, Any], str]) -> None:
    results, page = made
    for way, layers in Bundle(ZOO).manifest.layers.items():
        own = results["layers"][way]
        assert [row["kind"] for row in own["caches"]] == [layer.kind for layer in layers.caches]
        answered = [row["answered"] for row in own["caches"]]
        assert sum(answered) > 0.5 and own["effective_depth"] < 0.6
        assert own["wrong"] == pytest.approx(sum(row["false"] for row in own["caches"]))
        assert [row["reached"] for row in own["caches"]][1:] == pytest.approx(1 - np.cumsum(answered)[:-1])
        assert own["ms"] < own["whole_ms"]
        assert way in page


def test_the_default_output_is_tables(data: Path, tmp_path: Path) -> None:
    command = ["report", ZOO, "--data", data, "--work", tmp_path, "--streams", 1, "--frames", 50, "--threads", 1]
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    assert "same size generalist" in done.stdout and "probability" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["not-there"], "is no bundle"),
        ([str(ZOO), "--data", "not-there"], "is not there"),
        ([str(ZOO), "--data", "DATA", "--html", "/proc/report.html"], "/proc/report.html"),
    ],
)
def test_bad_input_is_refused_in_a_line(data: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    filled = [str(data) if flag == "DATA" else flag for flag in flags]
    done = CliRunner().invoke(app, ["report", *filled, "--work", str(tmp_path), "--streams", "1", "--frames", "16"])
    assert done.exit_code == 2
    *stages, refusal = done.stderr.splitlines()
    assert message in refusal and not any("model-builder" in line for line in stages)


def test_submodels_are_compared_with_a_general_model_of_their_size() -> None:
    """A bundle without a general model of that size is compared as a whole."""
    manifest = Bundle(ZOO).manifest
    alike, every = traces.same_size_family(manifest), traces.family_of(manifest)
    special = [name for name in manifest.submodels() if manifest.models[name].classes]
    assert (alike.base, list(alike.submodels), alike.general) == ("general-1in50.1", special, ())
    assert {manifest.models[name].macs for name in (alike.base, *alike.submodels)} == {manifest.models[alike.base].macs}
    peerless = {name: model for name, model in manifest.models.items() if name != alike.base}
    found = traces.same_size_family(msgspec.structs.replace(manifest, models=peerless))
    assert (found.base, found.submodels) == (every.base, alike.submodels)
