"""Distillation: small networks learn the full model's scores, not labels.

G. Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531). The teacher's scores are computed
once, on a fixed set of augmented views, because a teacher costs as much as 17 students. Epoch e trains on view e modulo
their number: teacher and student must see the same crop (L. Beyer et al., arXiv 2106.05237).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from cachenet.models.data.cifar10 import Images, Labels
from cachenet.models.train.networks import ResNet
from cachenet.models.train.training import Batch, Epoch, Loss, Recipe, augment, device, fit, scores
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.image import Input

#: Temperature of the soft targets.
_TEMPERATURE = 3.0
#: Share of the partition in a submodel's training mix.
_WEIGHT = 0.8
#: Length of a submodel's epoch as a share of the data set.
_EPOCH_SHARE = 0.5
#: Expected share of the partition in the frames of a device that uses the submodel.
_EXPECTED = 0.95
#: Share of the images of a view that get camera augmentation.
_CAMERA_SHARE = 0.5
Logits = npt.NDArray[np.float32]
#: Weight of each image ``(n,)``.
Weights = npt.NDArray[np.float64]


class Teacher:
    """A data set in augmented views with the full model's scores.

    The views are drawn again from their seeds; the scores are stored.

    Args:
        full: Function from images ``(n, h, w, 3)`` to the full model's scores ``(n, classes)``.
        images: Data set ``(n, h, w, 3)`` uint8 RGB.
        cache: Directory for the scores.
    """

    def __init__(
        self, full: Callable[[Images], Logits], images: Images, views: int, seed: int, cache: Path, progress: Progress
    ) -> None:
        self._images, self._seed = images, seed
        self.views = views
        self._scores: list[Logits] = []
        for number in progress.track(range(views), description="teacher's scores"):
            path = cache / f"teacher-{number}.npy"
            if not path.exists():
                data = io.BytesIO()
                np.save(data, full(self.view(number)).astype(np.float16))
                atomic_files.write(path, data.getbuffer())
            self._scores.append(np.load(path).astype(np.float32))

    def view(self, number: int) -> Images:
        return augment(self._images, np.random.default_rng((self._seed, 7, number)), camera_share=_CAMERA_SHARE)

    def epoch(self, batch: int, weights: Weights | None = None, share: float = 1.0) -> Epoch:
        """Return the batches of an epoch, all of one view.

        Args:
            weights: Sampling weights ``(n,)``; None draws each image once.
            share: Length of an epoch as a share of the data set.
        """

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

    def labels(self) -> Labels:
        """Return the full model's label of each image ``(n,)``."""
        labels: Labels = np.mean(self._scores, axis=0).argmax(1).astype(np.int64)
        return labels

    def steps(self, batch: int, share: float = 1.0) -> int:
        return int(share * len(self._images)) // batch


def distillation_loss(log_prior: Weights | None = None, temperature: float = _TEMPERATURE) -> Loss:
    """Return the Kullback-Leibler divergence of the softened scores from the teacher's.

    Args:
        log_prior: Log prior of the context, added to both scores ``(classes,)``. Labels that the context all but rules
            out then contribute little.
        temperature: Temperature of the softened scores.
    """
    added = torch.tensor(0.0 if log_prior is None else log_prior, dtype=torch.float32, device=device())

    def loss(logits: list[Tensor], target: Tensor) -> Tensor:
        student = F.log_softmax((logits[-1] + added) / temperature, 1)
        teacher = F.log_softmax((target + added) / temperature, 1)
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2

    return loss


def train_submodel(
    network: ResNet,
    spec: Input,
    teacher: Teacher,
    recipe: Recipe,
    inside: npt.NDArray[np.bool_],
    held_out: tuple[Images, Logits],
    checkpoint: Path,
    progress: Progress,
    title: str,
    share: float = _EPOCH_SHARE,
) -> None:
    """Fine-tune a copy of the base model in place on a mix in which the partition has weight ``_WEIGHT``.

    The rest of the data stays in the mix, so that the submodel can still reject other labels.

    Args:
        inside: Whether an image is in the partition ``(n,)``.
        held_out: Images and the full model's scores, not trained on; the prior of the mix is removed on them.
        checkpoint: File to continue from.
        share: Length of an epoch as a share of the data set.
    """
    weights, labels, classes = mix(inside), teacher.labels(), network.shape.classes
    fit(
        network,
        spec,
        recipe,
        teacher.epoch(recipe.batch, weights, share),
        teacher.steps(recipe.batch, share),
        distillation_loss(log_prior(mix(inside, _EXPECTED), labels, classes)),
        checkpoint,
        progress,
        title,
    )
    undo_prior(network, spec, log_prior(weights, labels, classes), held_out)


def log_prior(weights: Weights, labels: Labels, classes: int) -> Weights:
    """Return the log frequency of each label in a mix, relative to uniform frequencies ``(classes,)``."""
    prior: Weights = np.log(classes * (np.bincount(labels, weights, classes) + 1e-6))
    return prior


def mix(inside: npt.NDArray[np.bool_], weight: float = _WEIGHT) -> Weights:
    """Return sampling weights ``(n,)`` with sum 1, of which the images ``inside`` ``(n,)`` have ``weight``."""
    weights = np.where(inside, weight / max(1, inside.sum()), (1 - weight) / max(1, (~inside).sum()))
    normalised: Weights = weights / weights.sum()
    return normalised


def undo_prior(network: ResNet, spec: Input, log_prior: Weights, held_out: tuple[Images, Logits]) -> None:
    """Remove the label prior of the mix from the head's bias; the context supplies the prior.

    A. Menon et al., "Long-tail learning via logit adjustment", arXiv 2007.07314, section 3. A student of soft scores
    takes in only part of the prior. The part is fitted: least negative log-likelihood of the full model's labels.

    Args:
        log_prior: Log prior of the mix ``(classes,)``.
        held_out: Images in which no class is favoured, and the full model's scores.
    """
    images, full = held_out
    own, labels = scores(network, images, spec), full.argmax(1)

    def loss(part: float) -> float:
        adjusted = torch.from_numpy(own - (part * log_prior).astype(np.float32))
        return float(F.cross_entropy(adjusted, torch.from_numpy(labels)))

    part = min(np.linspace(0.0, 1.0, 11), key=loss)
    with torch.no_grad():
        network.head.bias.sub_(torch.tensor(part * log_prior, dtype=torch.float32, device=device()))
