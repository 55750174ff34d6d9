"""The one place where a cascade is put together: what is not wanted is not there."""

from __future__ import annotations

import pytest

from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.distribution import Distribution
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT, CascadeSpec
from cachenet.shared.cascade.tally import Tally
from tests.shared.cascade.streams import CLASSES, local, priors


def test_by_default_the_budget_is_two_in_a_hundred_and_hits_are_audited() -> None:
    cascade = build_cascade(CascadeSpec(CLASSES, "full"), local("base", level="base"), 100)
    assert cascade.spec.max_disagreement == MAX_DISAGREEMENT == 0.02
    assert cascade.audits is not None and cascade.audits.rate == 0.02
    assert cascade.spec.reuse_answers
    assert not cascade.estimator.ready
    assert cascade.submodels is not None and cascade.submodels.max_bytes == 100


def test_parts_that_are_not_configured_are_none() -> None:
    spec = CascadeSpec(CLASSES, "full", priors=priors(), audit_floor=0.0)
    cascade = build_cascade(spec, local("base", level="base"))
    assert cascade.audits is None and cascade.submodels is None
    assert cascade.estimator.ready
    assert build_cascade(spec, None, 100).submodels is None, "submodels look after a base model only"


@pytest.mark.parametrize(("seed", "same"), [("door", True), ("yard", False)])
def test_audits_are_drawn_from_the_seed(seed: str, same: bool) -> None:
    def drawn(name: str) -> list[bool]:
        audits = build_cascade(CascadeSpec(CLASSES, "full", seed=name), None).audits
        assert audits is not None
        return [audits.due() for _ in range(1000)]

    assert (drawn("door") == drawn(seed)) == same


def test_only_a_bundle_with_a_distribution_has_a_monitor() -> None:
    quantiles = (0.0, 1.0, 2.0)
    for distribution in (None, Distribution(quantiles, quantiles, 0.0)):
        cascade = build_cascade(CascadeSpec(CLASSES, "full", distribution=distribution), local("base", level="base"))
        assert cascade._distribution is None
    known = CascadeSpec(CLASSES, "full", distribution=Distribution(quantiles, quantiles, 0.2))
    assert build_cascade(known, local("base", level="base"))._distribution is not None


def test_the_class_and_the_tally_are_those_of_the_arguments() -> None:
    class Logged(Cascade):
        pass

    tally = Tally(frames=7, cloud=7)
    cascade = build_cascade(CascadeSpec(CLASSES, "full"), None, tally=tally, kind=Logged)
    assert isinstance(cascade, Logged)
    assert cascade.tally is tally
