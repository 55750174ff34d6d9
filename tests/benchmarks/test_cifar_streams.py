"""The CIFAR-10 streams: one row for each risk budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cifar_streams
from cachenet.models.data import cifar10, sample
from cachenet.shared.bundle.manifest import Bundle


def test_a_larger_budget_gives_no_smaller_local_share(monkeypatch: pytest.MonkeyPatch) -> None:
    images = sample.load()
    monkeypatch.setattr(cifar10, "load", lambda: cifar10.Cifar10(images, images, images))
    bundle = Bundle(Path("models/zoo/cifar10"))
    found = cifar_streams.measure(bundle, "session", range(2), 30, (0.005, 0.2))
    small, large = found["curve"]
    assert (small["max_disagreement"], large["max_disagreement"]) == (0.005, 0.2)
    assert 0.0 < small["local_share"]["mean"] <= large["local_share"]["mean"] <= 1.0
    assert all(0.0 <= row["truth"]["mean"] <= 1.0 for row in (small, large))
