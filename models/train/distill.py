"""Distillation: small networks learn the full model's scores, not the labels.

G. Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531). The teacher's scores are taken
once, on a fixed set of augmented views, because a teacher costs seventeen students; epoch e then trains on view
e mod ``VIEWS`` (L. Beyer et al., arXiv 2106.05237, show that teacher and student must see the same crop).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from cachenet.models.data.cached_array import kept
from cachenet.models.data.cifar10 import Images, Split
from cachenet.models.train.networks import ResNet
from cachenet.models.train.training import Batch, Epoch, Loss, Recipe, augment, device, fit, scores
from cachenet.shared.inference.image import Input

#: Temperature of the soft targets.
_SOFTNESS = 3.0
#: Of a submodel's training mix: its own classes' part; and the length of its epoch as a part of the data set.
_WEIGHT, _SHARE = 0.8, 0.5
#: How much of what a device sees where a submodel is in use is of its part.
_EXPECTED = 0.95
#: Share of the images in a view that are as a camera sees them.
_SENSED = 0.5
Logits = npt.NDArray[np.float32]


class DistillationData(Protocol):
    """Images with the full model's scores, in batches."""

    def epoch(self, batch: int, weights: npt.NDArray[np.float64] | None = None, share: float = 1.0) -> Epoch: ...

    def labels(self) -> npt.NDArray[np.int64]: ...

    def steps(self, batch: int, share: float = 1.0) -> int: ...


class Teacher:
    """A data set in ``views`` augmented copies, with the full model's scores of each; the copies are drawn again from
    their seed, the scores are kept in ``cache``."""

    def __init__(
        self,
        full: Callable[[Images], Logits],
        images: Images,
        views: int,
        seed: int,
        cache: Path,
        progress: Progress,
    ) -> None:
        self._images, self._seed = images, seed
        self.views = views
        task = progress.add_task("teacher's scores", total=views)
        self._scores = []
        for number in range(views):
            self._scores.append(kept(cache / f"teacher-{number}.npy", partial(self._look, full, number)))
            progress.advance(task)
        progress.remove_task(task)

    def _look(self, full: Callable[[Images], Logits], number: int) -> npt.NDArray[np.float16]:
        return full(self.view(number)).astype(np.float16)

    def view(self, number: int) -> Images:
        return augment(self._images, np.random.default_rng((self._seed, 7, number)), sensed=_SENSED)

    def said(self, number: int) -> Logits:
        """Of a view, what ``full`` gave, ``(n, classes)``."""
        return self._scores[number]

    def epoch(self, batch: int, weights: npt.NDArray[np.float64] | None = None, share: float = 1.0) -> Epoch:
        """Batches of one view after the other. With ``weights`` ``(n,)`` the images are drawn with replacement in that
        proportion. ``share``: length of an epoch as a part of the data set."""

        def batches(epoch: int, rng: np.random.Generator) -> Iterator[Batch]:
            number = epoch % self.views
            images, logits = self.view(number), self._scores[number]
            count = int(share * len(images)) // batch * batch
            if weights is None:
                order = rng.permutation(len(images))[:count]
            else:
                order = rng.choice(len(images), count, p=weights / weights.sum())
            for start in range(0, count, batch):
                rows = order[start : start + batch]
                yield images[rows], torch.from_numpy(logits[rows])

        return batches

    def labels(self) -> npt.NDArray[np.int64]:
        """The full model's answer for each image ``(n,)``, by its mean score: labels for data that has none."""
        labels: npt.NDArray[np.int64] = np.mean(self._scores, axis=0).argmax(1).astype(np.int64)
        return labels

    def steps(self, batch: int, share: float = 1.0) -> int:
        return int(share * len(self._images)) // batch


def distillation_loss(log_prior: npt.NDArray[np.float64] | None = None, softness: float = _SOFTNESS) -> Loss:
    """Kullback-Leibler divergence of the softened scores from the teacher's. ``log_prior`` ``(classes,)``: what the
    context will add to both, so that little is learned about labels that it all but rules out."""
    added = torch.tensor(0.0 if log_prior is None else log_prior, dtype=torch.float32, device=device())

    def loss(logits: list[Tensor], target: Tensor) -> Tensor:
        student = F.log_softmax((logits[-1] + added) / softness, 1)
        teacher = F.log_softmax((target + added) / softness, 1)
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * softness**2

    return loss


def train_base(
    network: ResNet,
    spec: Input,
    teacher: Teacher,
    recipe: Recipe,
    held: Split,
    checkpoint: Path,
    progress: Progress,
    title: str,
) -> list[dict[str, float]]:
    """Distil a general model. Where it was clearly better on the ``held`` frames, which came later, after an earlier
    epoch, it is taken as it was then."""
    return fit(
        network,
        spec,
        recipe,
        teacher.epoch(recipe.batch),
        teacher.steps(recipe.batch),
        distillation_loss(),
        checkpoint,
        progress,
        title,
        lambda trained: {"held": float((scores(trained, held.images, spec).argmax(1) == held.labels).mean())},
        keep_best="held",
    )


def train_submodel(
    network: ResNet,
    spec: Input,
    teacher: DistillationData,
    recipe: Recipe,
    inside: npt.NDArray[np.bool_],
    held: tuple[Images, Logits],
    checkpoint: Path,
    progress: Progress,
    title: str,
    share: float = _SHARE,
) -> None:
    """Fine-tune ``network``, a copy of the base model, on a mix in which the images ``inside`` have ``_WEIGHT``.

    The rest of the data stays in, so that the submodel can still say "not mine". ``held``: images and the full model's
    scores, not trained on, on which the mix's prior is undone. ``share``: length of an epoch as a part of the data set.
    """
    weights = mix(inside)
    fit(
        network,
        spec,
        recipe,
        teacher.epoch(recipe.batch, weights, share),
        teacher.steps(recipe.batch, share),
        distillation_loss(log_prior(mix(inside, _EXPECTED), teacher.labels(), network.shape.classes)),
        checkpoint,
        progress,
        title,
    )
    undo_prior(network, spec, log_prior(weights, teacher.labels(), network.shape.classes), held)


def log_prior(weights: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    """How often a mix of these ``weights`` ``(n,)`` shows each label, as logarithms, beside all labels alike."""
    prior: npt.NDArray[np.float64] = np.log(classes * (np.bincount(labels, weights, classes) + 1e-6))
    return prior


def mix(inside: npt.NDArray[np.bool_], weight: float = _WEIGHT) -> npt.NDArray[np.float64]:
    """How much each image counts for the submodel of those ``inside`` ``(n,)``, which have so much of the ``weight``;
    sums to 1."""
    weights = np.where(inside, weight / max(1, inside.sum()), (1 - weight) / max(1, (~inside).sum()))
    normalised: npt.NDArray[np.float64] = weights / weights.sum()
    return normalised


def undo_prior(network: ResNet, spec: Input, log_prior: npt.NDArray[np.float64], held: tuple[Images, Logits]) -> None:
    """Take out of the head's bias what the mix taught about how often a class comes: that, the context knows better
    (A. Menon et al., "Long-tail learning via logit adjustment", arXiv 2007.07314, section 3).

    A student of soft scores takes in only part of the prior, so the part is found: the one of least negative
    log-likelihood of the full model's answers on held images, where no class is favoured.
    """
    images, full = held
    own, answers = scores(network, images, spec), full.argmax(1)

    def loss(part: float) -> float:
        adjusted = torch.from_numpy(own - (part * log_prior).astype(np.float32))
        return float(F.cross_entropy(adjusted, torch.from_numpy(answers)))

    part = min(np.linspace(0.0, 1.0, 11), key=loss)
    with torch.no_grad():
        network.head.bias.sub_(torch.tensor(part * log_prior, dtype=torch.float32, device=device()))
