"""What the audits of a cascade measure."""

from __future__ import annotations

import numpy as np

from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.spec import CascadeSpec


def test_fallbacks_are_left_out_of_the_measured_agreement() -> None:
    """Nobody knows whether they agree."""
    cascade = build_cascade(CascadeSpec(2, "full"), None)
    assert cascade.audits is not None
    cascade.audits.count(True)
    cascade.audits.judge(True, 1.0)
    signature = Signature(np.zeros((12, 16), np.float32), np.zeros((24, 32), np.float32))
    for index in range(9):
        answer = cascade.complete(cascade.lookup(Frame(index, None, signature), 0.0), None, 1.0)
        assert answer.level == "fallback"
    agreement = cascade.audits.agreement()
    assert agreement is not None and agreement[0] == 0.0
