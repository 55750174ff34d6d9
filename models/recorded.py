"""Streams run through models once, so that decisions about them can be replayed as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge_agent.core.frame import Signature, sign
from models import streams
from models.cifar10 import Images, Split
from models.replay import Logits, Recorded
from shared.bundle import Bundle
from shared.engine import Session
from shared.image import Input, Picture, crop, preprocessor

Models = Mapping[str, tuple[Session, Input]]

_BATCH = 100
#: Streams in which neighbouring frames are unrelated pictures, so that what changed between them says nothing.
UNRELATED: tuple[streams.Name, ...] = ("shuffled", "session", "dwell")


def opened(bundle: Bundle, threads: int = 1) -> Models:
    """All models of a bundle, on the processor."""
    return {
        name: (Session(bundle.path(name), "cpu", threads), model.input)
        for name, model in bundle.manifest.models.items()
    }


def run(session: Session, spec: Input, pictures: Sequence[Picture]) -> Logits:
    """Logits ``(n, classes)`` of pictures of any size, BGR."""
    preprocess, batch = preprocessor(spec), session.batch or _BATCH
    return np.concatenate(
        [
            session.run(np.concatenate([preprocess(crop(picture, spec)) for picture in pictures[at : at + batch]]))
            for at in range(0, len(pictures), batch)
        ]
    )


def run_all(models: Models, pictures: Sequence[Picture]) -> dict[str, Logits]:
    """What every model says of the pictures, by its name."""
    return {name: run(session, spec, pictures) for name, (session, spec) in models.items()}


def as_pictures(images: Images) -> list[Picture]:
    """Images ``(n, h, w, 3)`` RGB as pictures, BGR."""
    return list(np.ascontiguousarray(images[:, :, :, ::-1]))


def record(
    plans: Sequence[streams.Plan],
    split: Split,
    models: Models,
    advance: Callable[[], object] = lambda: None,
    signed: bool = False,
) -> list[Recorded]:
    """Run every model over every frame of ``plans``, drawn from ``split``. ``advance`` is called after each stream.

    ``signed``: sign the pictures of ``UNRELATED`` streams too, as a device does that does not know what it looks at.
    """
    recordings = []
    tables: dict[str, Logits] = {}
    signatures: list[Signature] | None = None
    for plan in plans:
        if plan.name in UNRELATED:
            # Every frame is one of the images as it is: run each image once.
            if not tables:
                pictures = as_pictures(split.images)
                tables = run_all(models, pictures)
                signatures = [sign(picture) for picture in pictures] if signed else None
            own = [signatures[source] for source in plan.source.tolist()] if signatures is not None else None
            recordings.append(Recorded(plan.label, {name: t[plan.source] for name, t in tables.items()}, own))
        else:
            recordings.append(_render(plan, split, models))
        advance()
    return recordings


def film(pictures: Sequence[Picture], truth: npt.NDArray[np.int64], models: Models) -> Recorded:
    """Run every model over pictures that follow one another."""
    return Recorded(truth, run_all(models, pictures), [sign(picture) for picture in pictures])


def _render(plan: streams.Plan, split: Split, models: Models) -> Recorded:
    draw = streams.renderer(plan, split.images)
    signatures, crops = [], []
    spec = next(iter(models.values()))[1]
    for index in range(len(plan)):
        picture = draw(index)
        signatures.append(sign(picture))
        crops.append(crop(picture, spec))
    return Recorded(plan.label, run_all(models, crops), signatures)
