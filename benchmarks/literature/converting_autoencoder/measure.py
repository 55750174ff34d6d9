"""The measurement: four arms on CIFAR-10 and on a camera's state, at equal multiply-adds and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.literature.converting_autoencoder import trials
from benchmarks.literature.converting_autoencoder.students import ARMS, Arm, train
from benchmarks.literature.converting_autoencoder.trials import Labels, Trial
from benchmarks.literature.row import Inputs, Measurement, Row
from benchmarks.literature.thresholds import threshold
from benchmarks.real import measure as blocks
from cachenet.models.report.confidence_interval import interval
from cachenet.models.train.networks import ResNet, macs
from cachenet.models.train.training import scores
from cachenet.shared.cascade.probability import fit_temperature, softmax

Logits = npt.NDArray[np.float32]
#: Shares of false hits, of all frames, at which hits are compared; the second decides.
FALSE = (0.005, 0.01, 0.02)
#: Bar: gain in agreement, or in hits at equal false hits.
_AGREEMENT, _HITS = 0.01, 0.02
#: Seeds of the arms.
_SEEDS = {"ob": 2, "cifar10": 1}


def measure(inputs: Inputs) -> Measurement:
    """Train and compare the arms. Raises ``UserError`` if a clip or CIFAR-10 is not there."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for trial in (trials.camera(inputs), trials.cifar(inputs)):
        setup = trial.setup
        seeds = range(1 if inputs.smoke else _SEEDS[setup.name])
        outputs: dict[Arm, list[tuple[Logits, Logits]]] = {arm: [] for arm in ARMS}
        for seed in seeds:
            for arm in ARMS:
                outputs[arm].append(_outputs(train(arm, setup, seed, inputs.work, inputs.say), trial))
        about = {"seeds": len(seeds), "macs": macs(ResNet(setup.shape), setup.spec.size), "frames": len(trial.test)}
        found[setup.name] = about | {"arms": compare(outputs, trial.held_out_full, trial.test_full, trial.consecutive)}
    gains = {arm: found["cifar10"]["arms"][arm]["gain"] for arm in ("converting", "auxiliary")}
    pays = any(
        gain["agreement"]["mean"] >= _AGREEMENT or gain["hits"][str(FALSE[1])]["mean"] >= _HITS
        for gain in gains.values()
    )
    points = 100 * gains["converting"]["agreement"]["mean"]
    return Measurement(points, "points of agreement over the control, CIFAR-10", pays, found)


def _outputs(network: ResNet, trial: Trial) -> tuple[Logits, Logits]:
    """Logits for the held-out and for the test pictures."""
    spec = trial.setup.spec
    return scores(network, trial.held_out, spec), scores(network, trial.test, spec)


def compare(
    outputs: Mapping[Arm, Sequence[tuple[Logits, Logits]]], held_out: Labels, test: Labels, consecutive: bool
) -> dict[Arm, Any]:
    """The measures of each arm, and its gain over the control, paired by picture and seed.

    Args:
        outputs: By arm, for each seed, logits for the held-out and for the test pictures.
        held_out, test: The full model's labels.
        consecutive: Whether the intervals are over blocks of frames.
    """
    tables = {arm: [_answers(*own, held_out, test) for own in seeds] for arm, seeds in outputs.items()}
    means = {arm: {name: np.mean([one[name] for one in own], 0) for name in own[0]} for arm, own in tables.items()}
    found: dict[Arm, Any] = {}
    for arm, own in means.items():
        gain = {name: _interval(values - means["control"][name], consecutive) for name, values in own.items()}
        found[arm] = {
            "agreement": _rounded(own["agreement"]),
            "agreement_of_seeds": [_rounded(one["agreement"]) for one in tables[arm]],
            "hits": {str(limit): _rounded(own[f"hits {limit}"]) for limit in FALSE},
            "false_hits": {str(limit): _rounded(own[f"false {limit}"]) for limit in FALSE},
            "gain": {
                "agreement": gain["agreement"],
                "hits": {str(limit): gain[f"hits {limit}"] for limit in FALSE},
                "false_hits": {str(limit): gain[f"false {limit}"] for limit in FALSE},
            },
        }
    return found


def _answers(held_logits: Logits, logits: Logits, held_out: Labels, test: Labels) -> dict[str, npt.NDArray[np.float64]]:
    """For each test picture 1 or 0 ``(n,)``: agreement, and hits and false hits with the held-out thresholds."""
    temperature = fit_temperature(held_logits, held_out)
    held_risk, risk = (1.0 - softmax(own, temperature).max(1) for own in (held_logits, logits))
    agrees = logits.argmax(1) == test
    found = {"agreement": agrees.astype(np.float64)}
    for limit in FALSE:
        hits = risk <= threshold(held_risk, held_logits.argmax(1) != held_out, limit)
        found[f"hits {limit}"] = hits.astype(np.float64)
        found[f"false {limit}"] = (hits & ~agrees).astype(np.float64)
    return found


def _interval(values: npt.NDArray[np.float64], consecutive: bool) -> dict[str, object]:
    """Mean of ``values`` ``(n,)`` with its 95 % interval; over blocks of frames if they are consecutive."""
    if not consecutive:
        return interval(values.tolist())
    return {"mean": _rounded(values), "interval": blocks.interval(values, 0)}


def _rounded(values: npt.NDArray[np.float64]) -> float:
    return round(float(values.mean()), 5)


ROW = Row("VGG16 92.64 % to 94.05 % on CIFAR-10; 4.8x less time, 79 % less energy on MNIST-like sets", measure)
