"""The prior of the risk model for submodels, from the base model's prior and recent frames."""

from __future__ import annotations

import numpy as np

from cachenet.models.certify import submodel_prior
from cachenet.shared.cascade.features import FEATURE_COUNT, Stage
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.risk_model import RiskModel, RiskPrior, fit_prior
from cachenet.shared.media.signature import sign

COUNT, CLASSES = 200, 3
RNG = np.random.default_rng(0)
LABELS = np.repeat(RNG.integers(0, CLASSES, COUNT // 4), 4)


def base_prior() -> RiskPrior:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(400, FEATURE_COUNT["base"]))
    return fit_prior(features, features[:, 0] + 0.3 * features[:, 5] + rng.normal(size=400) < 0)


def priors() -> dict[Stage, RiskPrior]:
    rng = np.random.default_rng(2)
    picture = fit_prior(rng.normal(size=(50, FEATURE_COUNT["picture"])), rng.random(50) < 0.5)
    return {"picture": picture, "base": base_prior()}


def signatures() -> list[Signature]:
    return [sign(np.full((40, 40, 3), number % 250, np.uint8)) for number in range(COUNT)]


def test_a_submodel_is_trusted_as_the_base_model_was() -> None:
    prior, after = base_prior(), submodel_prior.from_base(base_prior())
    assert after.check(FEATURE_COUNT["submodel"])
    rows = np.random.default_rng(3).normal(size=(20, FEATURE_COUNT["base"]))
    other = rows.copy()
    other[:, :3] = np.random.default_rng(4).normal(size=(20, 3))  # what the base model itself says
    _, expected = RiskModel(prior).risk(rows)
    _, found = RiskModel(after).risk(np.hstack([other, rows[:, :3]]))
    np.testing.assert_allclose(found, expected)


def test_the_prior_learns_from_frames_whether_the_submodel_is_right() -> None:
    sure = np.full((COUNT, CLASSES), 0.05) + 0.85 * np.eye(CLASSES)[LABELS]
    flat = np.full((COUNT, CLASSES), 1 / CLASSES)
    wrong = np.roll(sure, 1, axis=1)
    good, bad = (submodel_prior.learned(priors(), flat, one, LABELS.tolist(), signatures()) for one in (sure, wrong))
    assert good is not None and bad is not None
    row = np.zeros((1, FEATURE_COUNT["submodel"]))
    row[0, -3:] = np.log(0.9), np.log(0.1), 1.0
    assert RiskModel(good).risk(row)[0] < RiskModel(bad).risk(row)[0] - 0.2


def test_a_bundle_without_priors_gets_none() -> None:
    flat = np.full((COUNT, CLASSES), 1 / CLASSES)
    assert submodel_prior.learned({}, flat, flat, LABELS.tolist(), signatures()) is None
