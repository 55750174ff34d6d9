"""Certification of recorded synthetic footage, and of pictures with the command ``prove``."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner, Result

from cachenet.models.certify import calibrate, certify
from cachenet.models.certify.blocks import FEWEST, GAP, LENGTH
from cachenet.models.certify.certify import Certification
from cachenet.models.certify.traces import ModelFamily, RecordedStream, replay
from cachenet.models.cli import app
from cachenet.models.report import remarks
from cachenet.shared.bundle.manifest import Bundle, Certificate
from cachenet.shared.cascade.features import FEATURE_COUNT
from cachenet.shared.media.signature import sign

pytestmark = pytest.mark.slow

CLASSES = 3
DWELL = 40


def stream(seed: int, frames: int, weak: float = 0.0, submodel: bool = False) -> RecordedStream:
    """A camera that shows one object for some ``DWELL`` frames, each in its own grey in a part of the picture.

    The full model is right. On the share ``weak`` of frames, the base model gives another label, as confident as ever.
    """
    rng = np.random.default_rng(seed)
    changes = np.cumsum(rng.random(frames) < 1 / DWELL)
    truth = rng.integers(0, CLASSES, changes[-1] + 1)[changes]
    predicted = np.where(rng.random(frames) < weak, (truth + 1) % CLASSES, truth)
    scale = rng.uniform(3, 8, frames)[:, None]
    logits = {
        "full": (10 * np.eye(CLASSES)[truth] + rng.normal(size=(frames, CLASSES))).astype(np.float32),
        "base": (scale * np.eye(CLASSES)[predicted]).astype(np.float32),
    }
    if submodel:
        scale = np.where(rng.random(frames) < 0.5, 0.1, 9.0)[:, None]
        label = np.where(scale[:, 0] < 1, (truth + 1) % CLASSES, truth)
        logits["special"] = (scale * np.eye(CLASSES)[label]).astype(np.float32)
    greys = 90 + rng.integers(-3, 4, (frames, 16, 16, 3))
    greys[:, :5, :5] += 50 * truth[:, None, None, None]
    return RecordedStream(truth, logits, [sign(picture) for picture in greys.astype(np.uint8)])


def family(submodels: tuple[str, ...] = ()) -> ModelFamily:
    names = ("full", "base", *submodels)
    return ModelFamily(
        "full",
        "base",
        submodels,
        dict.fromkeys(names, 1.0),
        {name: np.full(CLASSES, 0.9) for name in names},
        dict.fromkeys(names, 0.001),
    )


def find(
    tuning: list[RecordedStream], certifying: list[RecordedStream], of: ModelFamily | None = None
) -> Certification:
    with Progress(console=Console(file=io.StringIO())) as progress:
        return certify.certify_recorded(tuning, certifying, of or family(), "synthetic", progress)


@pytest.fixture(scope="module")
def good() -> Certification:
    """Of 24 blocks of footage with a base model that is never wrong."""
    return find([stream(0, 300)], [stream(seed, 12 * (LENGTH + GAP)) for seed in (1, 2)])


def test_without_errors_the_bound_is_limited_by_the_number_of_blocks(good: Certification) -> None:
    certificates = {one.max_disagreement: one for one in good.certificates}
    assert list(certificates) == [0.005, 0.01, 0.02, 0.05]
    widest = certificates[0.05]
    assert widest.blocks == 24
    assert widest.disagreement < 0.02 and widest.asked < 0.3
    assert all(0.1 < one.at_most < 0.2 for one in good.certificates), "the bound for 24 blocks without errors"
    assert [one.holds for one in good.certificates] == [False] * 4
    assert [one.blocks_needed > one.blocks for one in good.certificates] == [True] * 4


def test_priors_are_fitted_for_every_stage_with_a_model(good: Certification) -> None:
    assert set(good.priors) == {"picture", "base"}
    assert all(prior.check(FEATURE_COUNT[stage]) for stage, prior in good.priors.items())


def test_the_distribution_threshold_needs_two_thousand_frames(good: Certification) -> None:
    assert 0.0 < good.distribution.least <= 0.5
    assert find([stream(0, 50)], [stream(1, 100)]).distribution.least == 0.0


def test_the_same_footage_gives_the_same_certificates() -> None:
    tuning, certifying = [stream(0, 100)], [stream(1, 100)]
    assert find(tuning, certifying) == find(tuning, certifying)


def test_every_stream_is_replayed_once_for_each_budget_unless_it_leaves_the_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the certificate is that of a second replay."""
    replayed: list[int] = []

    def counted(shown: RecordedStream, *more: Any) -> Any:
        replayed.append(len(shown))
        return replay(shown, *more)

    monkeypatch.setattr(certify, "replay", counted)
    certifying = [stream(1, 1100), stream(2, 1200, weak=0.5), stream(3, 100)]
    found = find([stream(0, 300)], certifying)
    counts = {length: replayed.count(length) for length in (1100, 1200, 100)}
    assert set(counts.values()) <= {4, 5} and counts[100] == 4
    of = replace(family(), priors=found.priors, distribution=found.distribution)
    assert certify.certificate(certifying, of, 0.02) == found.certificates[2]


def test_the_cascade_learns_through_a_sequence_as_on_a_device() -> None:
    """Without priors, the first frames of a sequence are requests, and not those of each block."""
    long = stream(1, 10 * (LENGTH + GAP))
    whole = certify.certificate([long], family(), 0.05)
    apart = certify.certificate([stream(seed, LENGTH) for seed in range(10)], family(), 0.05)
    assert (whole.blocks, apart.blocks) == (10, 10)
    assert whole.asked < 0.5 * apart.asked


def test_too_little_footage_is_not_certified_and_the_remark_has_the_missing_frames() -> None:
    found = find([stream(0, 100)], [stream(1, 5 * (LENGTH + GAP))])
    for one in found.certificates:
        assert (one.blocks, one.at_most, one.holds) == (5, 1.0, False)
        assert one.blocks_needed >= FEWEST
    remark = remarks.uncertified(found.certificates[2])
    assert remark.startswith("Too few frames to certify: measured ")
    missing = (found.certificates[2].blocks_needed - 5) * (LENGTH + GAP)
    shown = int(remark.split(" more certification frames")[0].split()[-1].replace(",", ""))
    assert missing <= shown <= 1.1 * missing


def test_the_remark_on_a_rate_over_the_budget_is_that_more_footage_would_not_help() -> None:
    over = Certificate(0.02, 0.05, 0.09, 0.95, 0.3, 100, 0)
    assert "more frames would not help" in remarks.uncertified(over)


def test_a_drop_of_agreement_after_the_tuning_footage_is_reported() -> None:
    before, after = [stream(0, 400)], [stream(1, 400), stream(2, 400, weak=0.3)]
    found = certify.agreement(before, after, family())
    assert "overfitted" in found and "100.0%" in found["overfitted"]
    parts = found["base agreement"].split("in order: ")[1].rstrip(")").split()
    assert len(parts) == 8 and int(parts[0]) == 100 and int(parts[-1]) < 90
    assert "overfitted" not in certify.agreement(before, before, family())


def test_the_published_rule_has_the_largest_threshold_within_the_budget() -> None:
    """The submodel is wrong exactly where its entropy is high."""
    footage = [stream(0, 500, submodel=True)]
    threshold = certify.entropy_threshold(footage, family(("special",)), 0.02)
    assert 0.0 < threshold < np.log(CLASSES)
    assert certify.entropy_threshold(footage, family(("special",)), 0.99) > threshold
    assert certify.entropy_threshold(footage, replace(family(("special",)), general=("special",)), 0.02) == 0.0
    assert certify.entropy_threshold(footage, family(), 0.02) == 0.0


def test_coverage_is_the_share_of_each_label_with_confident_correct_answers() -> None:
    full = np.eye(2, dtype=np.float32)[[0, 0, 0, 0, 1, 1]] * 10
    local = np.array([[9, 0], [9, 0], [0, 9], [0.1, 0], [0, 9], [0, 0.1]], np.float32)
    np.testing.assert_allclose(calibrate.coverage(local, 1.0, full, 0.05), [0.5, 0.5])


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["prove", *map(str, arguments)])


@pytest.fixture(scope="module")
def proven(hampered: Bundle, sample_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """Result of the command on 300 unrelated pictures, and its directory."""
    directory = tmp_path_factory.mktemp("proven")
    paths = ("--held-out", sample_frames, "--out", directory / "out", "--work", directory / "work")
    return run(hampered.directory, *paths, "--quick", "--json"), directory


def test_models_stay_and_their_certification_is_new(hampered: Bundle, proven: tuple[Result, Path]) -> None:
    done, directory = proven
    assert done.exit_code == 0, done.output
    made = Bundle(directory / "out")
    before, after = hampered.manifest, made.manifest
    assert {name: one.sha256 for name, one in after.models.items()} == {
        name: one.sha256 for name, one in before.models.items()
    }
    assert after.models["base"].coverage != before.models["base"].coverage
    assert after.models["base"].temperature != before.models["base"].temperature
    assert after.priors != before.priors and after.certificates != before.certificates
    assert "to prove" in after.provenance["proven"]


def test_unrelated_pictures_are_certified_in_the_order_of_their_names(proven: tuple[Result, Path]) -> None:
    """No streams are drawn from a user's pictures without scenes."""
    done, directory = proven
    assert Bundle(directory / "out").manifest.provenance["certified on"].startswith("footage as it came")
    assert "Too few frames to certify" in done.stderr
    assert [one["at_most"] for one in json.loads(done.stdout)["certificates"]] == [1.0] * 4


def test_with_scenes_streams_are_drawn_from_unrelated_pictures_as_the_provenance_tells(
    hampered: Bundle, sample_frames: Path, proven: tuple[Result, Path], tmp_path: Path
) -> None:
    scenes = tmp_path / "scenes.json"
    scenes.write_text('[["cat", "dog"], ["ship", "truck", "airplane"]]')
    paths = ("--held-out", sample_frames, "--out", tmp_path / "out", "--work", proven[1] / "work")
    done = run(hampered.directory, *paths, "--quick", "--scenes", scenes)
    assert done.exit_code == 0, done.output
    assert Bundle(tmp_path / "out").manifest.provenance["certified on"].startswith("streams drawn of unrelated")


def test_an_error_is_one_line_and_nothing_is_written(hampered: Bundle, sample_frames: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    for arguments, message in (
        ((hampered.directory, "--held-out", sample_frames, "--out", mine), "is no bundle; name a new directory"),
        ((mine, "--held-out", sample_frames, "--out", tmp_path / "new"), "is no bundle"),
        ((hampered.directory, "--held-out", mine, "--out", tmp_path / "new"), "holds no pictures"),
    ):
        done = run(*arguments, "--quick", "--work", tmp_path / "work")
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
        assert message in done.stderr
    assert (mine / "letter.txt").read_text() == "dear"
    assert not (tmp_path / "new").exists()
