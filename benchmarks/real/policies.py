"""The policy ``cachenet`` at several risk budgets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.real.recording import Recording, Recordings
from benchmarks.real.trivial import Run
from cachenet.shared.cascade.audits import MIN_AUDIT_RATE
from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.probability import fit_temperature
from cachenet.shared.cascade.replay import ModelTrace, RecordedScores, fit_priors, run
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT, CascadeSpec

#: Name of CacheNet with the default risk budget.
DEFAULT = "cachenet"
#: Risk budget of each policy; the first is the default.
CACHENET: dict[str, float] = {
    DEFAULT: MAX_DISAGREEMENT,
    **{f"{DEFAULT}@{budget:g}": budget for budget in (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1)},
}
#: Smallest share of hits that is audited.
AUDIT_FLOOR = MIN_AUDIT_RATE


def cachenet(recordings: Recordings, max_disagreement: float, seed: int) -> Run:
    """CacheNet on the play frames; ``seed`` is that of the audits."""
    play = recordings.play
    outcome = run(cascade(recordings, play.base, max_disagreement, seed), trace(play))
    local_ms = play.sign_ms + outcome.probes * play.base_ms
    return Run(outcome.labels, outcome.asked, outcome.misses, [*outcome.levels], local_ms)


def cascade(recordings: Recordings, base: npt.NDArray[np.float32], max_disagreement: float, seed: int) -> Cascade:
    """A cascade with priors from the held-out frames, as a build makes it.

    The temperature comes from the tuning frames, on which the base model was not trained. Tuning frames count twice in
    the priors: by themselves, and among the held-out frames.

    Args:
        recordings: The recordings of the task.
        base: Scores of the base model for the frames of the run ``(n, classes)``.
        max_disagreement: Risk budget.
        seed: Seed of the audits.
    """
    tune = recordings.tune
    temperature = fit_temperature(tune.base, tune.labels)
    classes = tune.base.shape[1]
    priors = fit_priors([trace(recordings.held_out), trace(tune)], {}, temperature)
    spec = CascadeSpec(classes, "full", priors=priors, max_disagreement=max_disagreement, seed=str(seed))
    return build_cascade(spec, LocalModel("base", RecordedScores(base), temperature, np.zeros(classes), level="base"))


def trace(recording: Recording) -> ModelTrace:
    """The recording as a trace."""
    return ModelTrace(recording.full, recording.base, recording.signatures)
