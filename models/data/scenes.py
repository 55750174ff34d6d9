"""Twelve scenes of 3 to 5 CIFAR-10 classes each; four of them are never used while building.

The table is drawn at random, so that no scene is chosen to suit a method. A test pins it. Animals alone are easily
confused, vehicles alone hardly; half of the scenes mix both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_VEHICLES = (0, 1, 8, 9)
_ANIMALS = (2, 3, 4, 5, 6, 7)
CLASSES = len(_VEHICLES) + len(_ANIMALS)
_LARGEST = 5


@dataclass(frozen=True)
class Scene:
    """Classes that occur together, ascending; ``unseen`` scenes are excluded from building and fitting."""

    classes: tuple[int, ...]
    unseen: bool


def _draw(seed: int) -> tuple[Scene, ...]:
    rng = np.random.default_rng(seed)
    kinds = [_ANIMALS] * 4 + [_VEHICLES] * 2 + [_ANIMALS + _VEHICLES] * 6
    unseen = [False, False, False, True, False, True, False, False, False, False, True, True]
    while True:
        draws = (rng.permutation(kind)[: 3 + int(rng.random() * (min(_LARGEST, len(kind)) - 2))] for kind in kinds)
        scenes = tuple(Scene(tuple(sorted(draw.tolist())), hidden) for draw, hidden in zip(draws, unseen, strict=True))
        if _fit(scenes):
            return scenes


def _fit(scenes: tuple[Scene, ...]) -> bool:
    """Check the draw: known and unseen scenes each cover all classes, mixed ones are mixed, none contains another.

    An unseen scene within a known one would not be new.
    """
    sets = [set(scene.classes) for scene in scenes]
    covered = all(
        len(set().union(*(scene.classes for scene in scenes if scene.unseen is unseen))) == CLASSES
        for unseen in (False, True)
    )
    mixed = all(one & set(_ANIMALS) and one & set(_VEHICLES) for one in sets[6:])
    return covered and mixed and not any(a <= b for i, a in enumerate(sets) for j, b in enumerate(sets) if i != j)


SCENES = _draw(seed=0)
#: Numbers in ``SCENES`` of the scenes that building may use.
KNOWN = tuple(number for number, scene in enumerate(SCENES) if not scene.unseen)
#: Numbers in ``SCENES`` of the scenes that building may not use.
UNSEEN = tuple(number for number, scene in enumerate(SCENES) if scene.unseen)
