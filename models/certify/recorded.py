"""Streams run through models once, so that decisions about them can be replayed as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.models.certify.replay import Logits, Recorded
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import Images, Split
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, Picture, Tensor, crop, preprocessor
from cachenet.shared.media.signature import sign

Models = Mapping[str, tuple[Session, Input]]

_BATCH = 100
#: Streams in which every frame is one of the pictures as it is.
UNRELATED: tuple[streams.Name, ...] = ("shuffled", "session", "dwell")


def opened(bundle: Bundle, threads: int = 1) -> Models:
    """All models of a bundle, on the processor."""
    return {
        name: (Session(bundle.path(name), "cpu", threads), model.input)
        for name, model in bundle.manifest.models.items()
    }


def run(session: Session, spec: Input, pictures: Sequence[Picture], seen: Input | None = None) -> Logits:
    """Logits ``(n, classes)`` of pictures of any size, BGR. ``seen``: see ``view``."""
    return run_all({"": (session, spec)}, pictures, seen)[""]


def run_all(models: Models, pictures: Sequence[Picture], seen: Input | None = None) -> dict[str, Logits]:
    """What every model says of the pictures, by its name. ``seen``: see ``view``."""
    found: dict[str, list[Logits]] = {name: [] for name in models}
    for at in range(0, len(pictures), _BATCH):
        prepared: dict[Input, Tensor] = {}
        for name, (session, spec) in models.items():
            if spec not in prepared:
                prepare = preprocessor(spec)
                prepared[spec] = np.concatenate([prepare(view(one, spec, seen)) for one in pictures[at : at + _BATCH]])
            tensor = prepared[spec]
            step = session.batch or len(tensor)
            found[name] += [session.run(tensor[first : first + step]) for first in range(0, len(tensor), step)]
    return {name: np.concatenate(parts) for name, parts in found.items()}


def view(picture: Picture, spec: Input, seen: Input | None) -> Picture:
    """What a model of ``spec`` sees of a picture. One of the size of ``seen`` is no frame, but what a model of that
    kind saw of one: of it the model sees the part that it would have seen of the frame, or all where that is more."""
    if seen is None or spec == seen or picture.shape[1::-1] != seen.size:
        return crop(picture, spec)
    share = min(1.0, spec.crop / seen.crop)
    width, height = (round(side * share) for side in seen.size)
    left, top = (seen.size[0] - width) // 2, (seen.size[1] - height) // 2
    return crop(picture[top : top + height, left : left + width], msgspec.structs.replace(spec, crop=1.0))


def as_pictures(images: Images) -> list[Picture]:
    """Images ``(n, h, w, 3)`` RGB as pictures, BGR."""
    return list(np.ascontiguousarray(images[:, :, :, ::-1]))


def record(
    plans: Sequence[streams.StreamSchedule],
    split: Split,
    models: Models,
    advance: Callable[[], object] = lambda: None,
    seen: Input | None = None,
) -> list[Recorded]:
    """Run every model over every frame of ``plans``, drawn from ``split``, whose images are as a model of ``seen`` sees
    them (see ``view``). ``advance`` is called after each stream.
    """
    recordings = []
    tables: dict[str, Logits] = {}
    signatures: list[Signature] = []
    for plan in plans:
        if plan.name in UNRELATED:
            # Every frame is one of the images as it is: run each image once.
            if not tables:
                pictures = as_pictures(split.images)
                tables = run_all(models, pictures, seen)
                signatures = [sign(picture) for picture in pictures]
            own = [signatures[source] for source in plan.source.tolist()]
            recordings.append(Recorded(plan.label, {name: t[plan.source] for name, t in tables.items()}, own))
        else:
            recordings.append(_render(plan, split, models, seen))
        advance()
    return recordings


def film(
    pictures: Sequence[Picture], truth: npt.NDArray[np.int64], models: Models, seen: Input | None = None
) -> Recorded:
    """Run every model over pictures that follow one another. ``seen``: see ``view``."""
    return Recorded(truth, run_all(models, pictures, seen), [sign(picture) for picture in pictures])


def _render(plan: streams.StreamSchedule, split: Split, models: Models, seen: Input | None) -> Recorded:
    """A batch of frames at a time: all of a camera's would take a gigabyte."""
    draw = streams.renderer(plan, split.images)
    parts = []
    for at in range(0, len(plan), _BATCH):
        pictures = [draw(index) for index in range(at, min(at + _BATCH, len(plan)))]
        parts.append(film(pictures, plan.label[at : at + _BATCH], models, seen))
    logits = {name: np.concatenate([part.logits[name] for part in parts]) for name in models}
    return Recorded(plan.label, logits, [one for part in parts for one in part.signatures])
