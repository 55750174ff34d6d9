"""The selector: which submodel is worth caching on a device, given what it sees. Pure and without memory: what it
must know of the device came with the request, so that any replica gives the same advice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.probability import Probabilities

#: Frames' worth of belief spread over all labels: a few frames are not yet a working set.
SMOOTHING = 1.0
#: How many more of its frames a device must be able to answer, as a share, before a submodel is worth the memory and
#: the download. It also keeps the advice from swinging with every stranger.
MARGIN = 0.02


def label_distribution(posterior: Probabilities, recent: Sequence[int]) -> Probabilities:
    """Probability of each label in the device's working set, ``(classes,)``: its recent labels, one frame each,
    and the present frame as the full model sees it."""
    classes = len(posterior)
    weights: Probabilities = posterior + SMOOTHING / classes
    weights += np.bincount(np.asarray(recent, np.int64), minlength=classes)
    weights /= weights.sum()
    return weights


def recommend(manifest: Manifest, posterior: Probabilities, recent: Sequence[int]) -> str | None:
    """The submodel that would answer most of such frames, or None where the base model does about as well.

    ``posterior``: the full model's for this frame, ``(classes,)``; ``recent``: indices of recent labels.
    """
    labels = label_distribution(posterior, recent)
    coverage = {name: manifest.expected_coverage(name, labels) for name in manifest.submodels()}
    if not coverage:
        return None
    best = max(coverage, key=coverage.__getitem__)
    enough = manifest.expected_coverage(manifest.only("base"), labels) + MARGIN
    return best if coverage[best] > enough else None
