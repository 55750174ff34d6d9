"""The plan of a bundle: everything that decides what is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cachenet.shared.bundle.manifest import digest

#: ``auto``: INT8 where it is measured to be quicker and to answer as much.
Precision = Literal["auto", "float16", "int8"]
#: Multiply-adds of the base model, as a share of the full model's, where the user names none.
DEFAULT_SHARES = (1 / 13,)


@dataclass(frozen=True)
class BuildConfig:
    """Everything that decides what is built.

    Attributes:
        shares: Multiply-adds of local models, as shares of the full model's; the first is the base model's.
        special: Those of ``shares`` in which there are submodels, where not in all.
        submodels: How many there are at the most, of each size, and in the end.
        least: What each must add to the share of frames that are answered, for a megabyte of its file.
        scenes: Labels that come together; drawn where there are none.
        views: Copies of the frames that the full model looks at.
        epochs, batch: Of a general model.
        refining: Epochs of a submodel.
        tuning_pools, pools, frames: Of streams that are drawn of unrelated pictures (see ``certify``): how many of
            each kind to tune and to prove with, and their length.
        precision: Of the local models' weights and activations.
    """

    name: str
    shares: tuple[float, ...] = DEFAULT_SHARES
    special: tuple[float, ...] = ()
    submodels: int = 12
    least: float = 0.002
    scenes: tuple[tuple[int, ...], ...] = ()
    views: int = 4
    epochs: int = 30
    batch: int = 128
    refining: int = 3
    tuning_pools: int = 4
    pools: int = 10
    frames: int = 1000
    precision: Precision = "auto"
    seed: int = 0


#: For a try: every stage, in a minute.
QUICK = BuildConfig("quick", submodels=2, least=0.0, views=1, epochs=2, refining=1, tuning_pools=1, pools=1, frames=60)


def key(*parts: object) -> str:
    """Tells results apart that were made from different things."""
    return digest(repr(parts).encode())[:16]
