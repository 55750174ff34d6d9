"""Certification, on recorded footage made up to have known answers, and by the command on pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner, Result

from cachenet.models.certify import calibrate, certify
from cachenet.models.certify.blocks import FEWEST, GAP, LENGTH
from cachenet.models.certify.certify import Certified
from cachenet.models.certify.replay import Family, Recorded
from cachenet.models.cli import app
from cachenet.models.report import remarks
from cachenet.shared.bundle.manifest import Bundle, Certificate
from cachenet.shared.bundle.trust import Key, generate
from cachenet.shared.cascade.features import COUNT
from cachenet.shared.media.signature import sign
from tests.hampered import hampered_bundle, pictures

pytestmark = pytest.mark.slow

CLASSES = 3
STAY = 40


def stream(seed: int, frames: int, weak: float = 0.0, submodel: bool = False) -> Recorded:
    """A camera that shows one thing for some ``STAY`` frames, each in its own grey in a part of the picture. The full
    model is right; on the share ``weak`` of frames the base model says another label, as sure as ever."""
    rng = np.random.default_rng(seed)
    changes = np.cumsum(rng.random(frames) < 1 / STAY)
    truth = rng.integers(0, CLASSES, changes[-1] + 1)[changes]
    said = np.where(rng.random(frames) < weak, (truth + 1) % CLASSES, truth)
    sure = rng.uniform(3, 8, frames)[:, None]
    logits = {
        "full": (10 * np.eye(CLASSES)[truth] + rng.normal(size=(frames, CLASSES))).astype(np.float32),
        "base": (sure * np.eye(CLASSES)[said]).astype(np.float32),
    }
    if submodel:
        doubtful = np.where(rng.random(frames) < 0.5, 0.1, 9.0)[:, None]
        wrong = np.where(doubtful[:, 0] < 1, (truth + 1) % CLASSES, truth)
        logits["special"] = (doubtful * np.eye(CLASSES)[wrong]).astype(np.float32)
    greys = 90 + rng.integers(-3, 4, (frames, 16, 16, 3))
    greys[:, :5, :5] += 50 * truth[:, None, None, None]
    return Recorded(truth, logits, [sign(picture) for picture in greys.astype(np.uint8)])


def family(submodels: tuple[str, ...] = ()) -> Family:
    names = ("full", "base", *submodels)
    return Family(
        "full",
        "base",
        submodels,
        dict.fromkeys(names, 1.0),
        {name: np.full(CLASSES, 0.9) for name in names},
        dict.fromkeys(names, 0.001),
    )


def find(tuned: list[Recorded], proven: list[Recorded], of: Family | None = None) -> Certified:
    with Progress(console=Console(file=io.StringIO())) as progress:
        return certify.find(tuned, proven, of or family(), "made up", progress)


@pytest.fixture(scope="module")
def good() -> Certified:
    """On 24 blocks of footage of a base model that is never wrong."""
    return find([stream(0, 300)], [stream(seed, 12 * (LENGTH + GAP)) for seed in (1, 2)])


def test_a_base_model_that_is_never_wrong_is_certified_for_what_so_many_blocks_can_show(good: Certified) -> None:
    certificates = {one.max_disagreement: one for one in good.certificates}
    assert list(certificates) == [0.005, 0.01, 0.02, 0.05]
    widest = certificates[0.05]
    assert widest.blocks == 24
    assert widest.disagreement < 0.02 and widest.asked < 0.3
    assert all(0.1 < one.at_most < 0.2 for one in good.certificates), "so few blocks cannot show more"
    assert [one.holds for one in good.certificates] == [False] * 4
    assert [one.blocks_needed > one.blocks for one in good.certificates] == [True] * 4


def test_priors_are_fitted_for_every_stage_that_there_are_models_for(good: Certified) -> None:
    assert set(good.priors) == {"picture", "base"}
    assert all(prior.check(COUNT[stage]) for stage, prior in good.priors.items())


def test_footage_of_two_thousand_frames_and_more_tells_the_distribution(good: Certified) -> None:
    assert 0.0 < good.distribution.least <= 0.5
    assert find([stream(0, 50)], [stream(1, 100)]).distribution.least == 0.0


def test_the_same_footage_gives_the_same_certificates() -> None:
    tuned, proven = [stream(0, 100)], [stream(1, 100)]
    assert find(tuned, proven) == find(tuned, proven)


def test_the_cascade_learns_on_through_a_sequence_as_on_a_device() -> None:
    """Without priors it asks about its first frames, once in a sequence and not once in a block."""
    long = stream(1, 10 * (LENGTH + GAP))
    whole = certify.certificate([long], family(), 0.05)
    apart = certify.certificate([stream(seed, LENGTH) for seed in range(10)], family(), 0.05)
    assert (whole.blocks, apart.blocks) == (10, 10)
    assert whole.asked < 0.5 * apart.asked


def test_too_little_footage_is_not_certified_and_says_how_much_more_is_needed() -> None:
    found = find([stream(0, 100)], [stream(1, 5 * (LENGTH + GAP))])
    for one in found.certificates:
        assert (one.blocks, one.at_most, one.holds) == (5, 1.0, False)
        assert one.blocks_needed >= FEWEST
    told = remarks.uncertified(found.certificates[2])
    assert told.startswith("Not certifiable from so little: measured ")
    missing = (found.certificates[2].blocks_needed - 5) * (LENGTH + GAP)
    said = int(told.split(" more frames")[0].split()[-1].replace(",", ""))
    assert missing <= said <= 1.1 * missing


def test_a_rate_over_the_budget_says_that_more_footage_would_not_help() -> None:
    over = Certificate(0.02, 0.05, 0.09, 0.95, 0.3, 100, 0)
    assert "more frames would not help" in remarks.uncertified(over)


def test_a_drop_of_agreement_after_the_tuning_footage_is_told() -> None:
    before, after = [stream(0, 400)], [stream(1, 400), stream(2, 400, weak=0.3)]
    told = certify.agreement(before, after, family())
    assert "overfitted" in told and "100.0%" in told["overfitted"]
    parts = told["base agreement"].split("in order: ")[1].rstrip(")").split()
    assert len(parts) == 8 and int(parts[0]) == 100 and int(parts[-1]) < 90
    assert "overfitted" not in certify.agreement(before, before, family())


def test_the_published_rule_gets_the_largest_threshold_within_the_budget() -> None:
    """The submodel is wrong wherever its entropy is high, and only there."""
    several = [stream(0, 500, submodel=True)]
    threshold = certify.entropy_threshold(several, family(("special",)), 0.02)
    assert 0.0 < threshold < np.log(CLASSES)
    assert certify.entropy_threshold(several, family(("special",)), 0.99) > threshold
    assert certify.entropy_threshold(several, replace(family(("special",)), general=("special",)), 0.02) == 0.0
    assert certify.entropy_threshold(several, family(), 0.02) == 0.0


def test_coverage_is_the_share_of_each_label_that_is_sure_and_agrees() -> None:
    full = np.eye(2, dtype=np.float32)[[0, 0, 0, 0, 1, 1]] * 10
    local = np.array([[9, 0], [9, 0], [0, 9], [0.1, 0], [0, 9], [0, 0.1]], np.float32)
    np.testing.assert_allclose(calibrate.coverage(local, 1.0, full, 0.05), [0.5, 0.5])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(hampered_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("frames"), 0, 300)


def run(*given: object) -> Result:
    return CliRunner().invoke(app, ["prove", *map(str, given)])


@pytest.fixture(scope="module")
def proven(bundle: Bundle, frames: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The command on 300 unrelated pictures, and where its results are."""
    place = tmp_path_factory.mktemp("proven")
    private, _ = generate(place / "keys")
    given = (bundle.directory, "--held-out", frames, "--out", place / "out", "--work", place / "work", "--quick")
    return run(*given, "--key", private, "--json"), place


def test_models_stay_and_what_is_certified_of_them_is_found_anew(bundle: Bundle, proven: tuple[Result, Path]) -> None:
    done, place = proven
    assert done.exit_code == 0, done.output
    made = Bundle(place / "out")
    before, after = bundle.manifest, made.manifest
    assert {name: one.sha256 for name, one in after.models.items()} == {
        name: one.sha256 for name, one in before.models.items()
    }
    assert after.models["base"].coverage != before.models["base"].coverage
    assert after.models["base"].temperature != before.models["base"].temperature
    assert after.priors != before.priors and after.certificates != before.certificates
    assert "to prove" in after.provenance["proven"]
    assert Key(place / "keys" / "bundle.pub").vouches(made.data, made.signature)


def test_unrelated_pictures_are_certified_in_the_order_of_their_names(proven: tuple[Result, Path]) -> None:
    """No streams are invented of a user's pictures."""
    done, place = proven
    assert Bundle(place / "out").manifest.provenance["certified on"].startswith("footage as it came")
    assert "Not certifiable from so little" in done.stderr
    assert [one["at_most"] for one in json.loads(done.stdout)["certificates"]] == [1.0] * 4


def test_with_scenes_streams_are_drawn_of_unrelated_pictures_and_the_bundle_says_so(
    bundle: Bundle, frames: Path, proven: tuple[Result, Path], tmp_path: Path
) -> None:
    scenes = tmp_path / "scenes.json"
    scenes.write_text('[["cat", "dog"], ["ship", "truck", "airplane"]]')
    given = (bundle.directory, "--held-out", frames, "--out", tmp_path / "out", "--work", proven[1] / "work")
    done = run(*given, "--quick", "--scenes", scenes)
    assert done.exit_code == 0, done.output
    assert Bundle(tmp_path / "out").manifest.provenance["certified on"].startswith("streams drawn of unrelated")


def test_what_cannot_be_is_one_clear_line_and_nothing_is_written(bundle: Bundle, frames: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    for given, told in (
        ((bundle.directory, "--held-out", frames, "--out", mine), "is no bundle; name a new directory"),
        ((mine, "--held-out", frames, "--out", tmp_path / "new"), "is no bundle"),
        ((bundle.directory, "--held-out", mine, "--out", tmp_path / "new"), "holds no pictures"),
    ):
        done = run(*given, "--quick", "--work", tmp_path / "work")
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
        assert told in done.stderr
    assert (mine / "letter.txt").read_text() == "dear"
    assert not (tmp_path / "new").exists()
