"""Prior of the risk model at stage ``submodel``, from a device's recent frames.

A bundle without submodels has no such prior, and a device would have to learn it from fifty answers of the full model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cachenet.shared.cascade.features import FEATURE_COUNT, Stage
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.probability import Probabilities
from cachenet.shared.cascade.risk_estimator import RiskEstimator
from cachenet.shared.cascade.risk_model import RiskPrior

#: Features of a model's own probability of a label: the first ones at stage ``base``, the last ones at ``submodel``.
_OWN = 3
#: Prior precision of the weights of the base model's own probability, once a submodel has run.
_RIDGE = 3.0


def learned(
    priors: Mapping[Stage, RiskPrior],
    base: Probabilities,
    submodel: Probabilities,
    labels: Sequence[int],
    signatures: Sequence[Signature],
) -> RiskPrior | None:
    """The prior of ``priors``, or else ``from_base``, after learning from consecutive frames; None without any.

    Args:
        base, submodel: Probabilities on frames that the submodel was not trained on ``(n, classes)``.
        labels: The full model's labels ``(n,)``.
    """
    if "base" not in priors:
        return None
    start = priors.get("submodel") or from_base(priors["base"])
    estimator = RiskEstimator(base.shape[1], {**priors, "submodel": start})
    for index, label in enumerate(labels):
        lookup = estimator.begin(Frame(index, None, signatures[index]))
        for probabilities in (base[index], submodel[index]):
            estimator.add_output(lookup, probabilities)
        estimator.learn(lookup, label)
    weights, precision = estimator.state["submodel"]
    after = RiskPrior(start.mean, start.deviation, tuple(weights.tolist()), tuple(precision.ravel().tolist()))
    return after if after.check(FEATURE_COUNT["submodel"]) else start


def from_base(prior: RiskPrior) -> RiskPrior:
    """The prior by which a submodel is trusted at its place as the base model was on the bundle's footage.

    The submodel's own probability takes the weights of the base model's, which itself gets a weight of zero.
    """
    before, after = FEATURE_COUNT["base"], FEATURE_COUNT["submodel"]
    # Place at stage ``submodel`` of each feature at stage ``base``, and of the intercept.
    places = [*range(before, before + _OWN), *range(_OWN, before), after]
    mean, deviation, weights = np.zeros(after), np.ones(after), np.zeros(after + 1)
    precision = _RIDGE * np.eye(after + 1)
    mean[places[:-1]], deviation[places[:-1]] = prior.mean, prior.deviation
    mean[:_OWN], deviation[:_OWN] = prior.mean[:_OWN], prior.deviation[:_OWN]
    weights[places] = prior.weights
    precision[np.ix_(places, places)] = np.reshape(prior.precision, (before + 1, before + 1))
    return RiskPrior(*(tuple(values.ravel().tolist()) for values in (mean, deviation, weights, precision)))
