"""Submodel recommendation: the one that was proven for the device, else one for its working set.

Pure and stateless: all that it needs about the device is in the request, so every replica recommends the same submodel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.probability import Probabilities

#: Weight of the uniform distribution over labels, frames. It keeps a few frames from counting as a working set.
SMOOTHING = 1.0
#: Least gain of a submodel over the base model, as a share of the device's frames. A smaller gain is not worth the
#: memory and the download; the threshold also keeps one frame of another label from changing the recommendation.
MARGIN = 0.02


def label_distribution(posterior: Probabilities, recent: Sequence[int]) -> Probabilities:
    """Estimate the label distribution of a device's working set.

    Args:
        posterior: Posterior of the full model for this frame, ``(classes,)``.
        recent: Indices of the device's recent labels; each counts as one frame.

    Returns:
        Probability of each label, ``(classes,)``.
    """
    classes = len(posterior)
    weights: Probabilities = posterior + SMOOTHING / classes
    weights += np.bincount(np.asarray(recent, np.int64), minlength=classes)
    weights /= weights.sum()
    return weights


def recommend(manifest: Manifest, posterior: Probabilities, recent: Sequence[int], device: str) -> str | None:
    """The submodel that was proven for the device, or else the one with the highest expected coverage.

    None if the base model does about as well. A submodel that was proven for other devices only is never recommended.

    Args:
        manifest: Manifest of the served bundle.
        posterior: Posterior of the full model for this frame, ``(classes,)``.
        recent: Indices of the device's recent labels.
        device: Name of the device.
    """
    if (own := manifest.own_submodel(device)) is not None:
        return own
    labels = label_distribution(posterior, recent)
    coverage = {name: manifest.expected_coverage(name, labels) for name in manifest.common_submodels()}
    if not coverage:
        return None
    best = max(coverage, key=coverage.__getitem__)
    threshold = manifest.expected_coverage(manifest.only("base"), labels) + MARGIN
    return best if coverage[best] > threshold else None
