"""The batches of a detector's training: random views of random frames of a block, with their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from cachenet.models.detect.augment import view
from cachenet.models.detect.footage import Block, take
from cachenet.models.detect.paste import Paster
from cachenet.models.train.training import Batch, Epoch
from cachenet.shared.cascade.detect.detections import Detections

#: The targets of a frame from its objects and the full model's threshold.
TargetsOf = Callable[[Detections, float], npt.NDArray[np.float32]]


def views(block: Block, classes: int, batch: int, steps: int, targets_of: TargetsOf) -> Epoch:
    """Epochs of ``steps`` batches.

    Args:
        classes: Number of labels.
        batch: Frames of a step.
    """
    numbers = block.sequences.tolist()
    pasters = {one: Paster(take(block, np.flatnonzero(block.sequences == one))) for one in dict.fromkeys(numbers)}

    def epoch(_number: int, rng: np.random.Generator) -> Iterator[Batch]:
        for _ in range(steps):
            images, wanted = [], []
            for row in rng.integers(0, len(block), batch).tolist():
                image, objects = block.pictures[row], block.objects[row]
                if (paste := pasters[numbers[row]]).useful:
                    image, objects = paste(image, objects, rng)
                image, objects = view(image, objects, classes, rng)
                images.append(image)
                wanted.append(targets_of(objects, block.score))
            yield np.stack(images), torch.from_numpy(np.stack(wanted))

    return epoch
