"""Recorded answers of a stream: of the base model, and of the full model to pictures at several precisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.probability import Probabilities, fit_temperature, jensen_shannon, softmax
from cachenet.shared.cascade.risk_model import RiskModel, fit_prior
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, Picture, crop, encode, preprocessor
from cachenet.shared.media.pictures import decode
from cachenet.shared.media.signature import sign

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

#: Precisions after the product's own (precision 0): share of the picture's side, and quality of the JPEG.
REDUCED = ((1.0, 60), (0.5, 75), (0.25, 60))
#: Number of precisions.
PRECISIONS = 1 + len(REDUCED)
#: Frames of a stream that are used.
FRAMES = 400
#: Pairs of a frame and an earlier question from which the risk models are fitted.
_PAIRS = 6000
#: Longest age of an answer among these pairs, frames.
_OLDEST = 150
#: Share of these pairs without an earlier question.
_NONE = 0.1
#: Least probability that a logarithm is taken of.
_FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class Answers:
    """Recordings of ``n`` consecutive frames.

    Attributes:
        base: Logits of the base model ``(n, classes)``.
        labels: Labels of the full model for the picture at each precision ``(precisions, n)``. Those at precision 0 are
            the reference.
        nbytes: Size of the picture at each precision ``(n, precisions)``.
        blocks, thumbnails: Parts of the signatures ``(n, 12, 16)`` and ``(n, 24, 32)``.
    """

    base: npt.NDArray[np.float32]
    labels: Labels
    nbytes: Labels
    blocks: npt.NDArray[np.float32]
    thumbnails: npt.NDArray[np.float32]

    def part(self, first: int, end: int) -> Answers:
        """The frames from ``first`` to before ``end``."""
        return Answers(
            self.base[first:end],
            self.labels[:, first:end],
            self.nbytes[first:end],
            self.blocks[first:end],
            self.thumbnails[first:end],
        )


def encodings(picture: Picture) -> list[bytes]:
    """The picture at each precision."""
    found = [encode(picture)[1]]
    for share, quality in REDUCED:
        side = max(8, round(share * picture.shape[0]))
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        found.append(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    return found


def record(pictures: Sequence[Picture], full: tuple[Session, Input], base: tuple[Session, Input], side: int) -> Answers:
    """Run both models over ``pictures``.

    Args:
        full, base: Session and preprocessing of each model.
        side: Side of the picture in a question, pixels.
    """
    sent_as = msgspec.structs.replace(full[1], side=side, height=None)
    whole = msgspec.structs.replace(full[1], crop=1.0)
    prepare_full, prepare_base = preprocessor(whole), preprocessor(base[1])
    logits, labels, nbytes, signatures = [], [], [], []
    for picture in pictures:
        logits.append(base[0].run(prepare_base(crop(picture, base[1])))[0])
        sent = encodings(crop(picture, sent_as))
        answers = [full[0].run(prepare_full(crop(decode(data), whole)))[0] for data in sent]
        labels.append([int(scores.argmax()) for scores in answers])
        nbytes.append([len(data) for data in sent])
        signatures.append(sign(picture))
    return Answers(
        np.stack(logits),
        np.array(labels).T,
        np.array(nbytes),
        np.stack([one.blocks for one in signatures]),
        np.stack([one.thumbnail for one in signatures]),
    )


@dataclass(frozen=True, eq=False)
class Stream:
    """Everything that an episode needs of a stream of ``n`` frames. An index ``j`` is that of the frame of the last
    question, and ``n`` before the first one; ``p`` is the precision of that question, ``i`` the present frame.

    Attributes:
        name: Name of the stream.
        picture_risk: Risk of the held answer by the picture alone ``(n + 1, n)``, by ``j`` and ``i``.
        risk: Risk of the best local answer after the base model ``(precisions, n + 1, n)``, by ``p``, ``j`` and ``i``.
        held_wrong, wrong: Whether the held answer, and the best local one, differ from the reference; as ``risk``.
        reply_risk, reply_wrong: Risk that the full model's answer at a precision differs from the reference, and
            whether it does ``(precisions, n)``; 0 at precision 0.
        nbytes: Size of the picture at each precision ``(n, precisions)``.
    """

    name: str
    picture_risk: npt.NDArray[np.float32]
    risk: npt.NDArray[np.float32]
    held_wrong: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]
    reply_risk: npt.NDArray[np.float32]
    reply_wrong: npt.NDArray[np.bool_]
    nbytes: Labels


def stream(name: str, held_out: Answers, tune: Answers, play: Answers) -> Stream:
    """The stream of ``play``, with risk models of the product that are fitted to the other recordings.

    Args:
        held_out: Footage for the risk models.
        tune: Part of it on which the base model was not trained: for the temperature, and for the risk models again.
    """
    rng = np.random.default_rng(0)
    temperature = fit_temperature(tune.base, tune.labels[0])
    parts = [_pairs(part, temperature, rng) for part in (held_out, tune)]
    picture, local = (_fitted([part[at] for part in parts]) for at in (0, 1))
    reply = [
        _fitted([(_replies(part, temperature), part.labels[p] != part.labels[0]) for part in (held_out, tune)])
        for p in range(PRECISIONS)
    ]
    play = play.part(0, FRAMES)
    n = len(play.base)
    probabilities = softmax(play.base, temperature)
    base, truth = probabilities.argmax(1), play.labels[0]
    picture_risk, risk = np.ones((n + 1, n), np.float32), np.ones((PRECISIONS, n + 1, n), np.float32)
    held_wrong, wrong = np.ones((PRECISIONS, n + 1, n), np.bool_), np.ones((PRECISIONS, n + 1, n), np.bool_)
    everywhere = np.arange(n)
    alone = local.risk(base_rows(probabilities, base, everywhere, None, np.zeros((n, 4))))[0]
    risk[:, n], wrong[:, n] = alone, base != truth
    for j in range(n - 1):
        later = everywhere[j + 1 :]
        changes = _changes(play, probabilities, later, np.full(len(later), j))
        picture_risk[j, later] = picture.risk(changes[:, 1:])[0]
        for p in range(PRECISIONS):
            held = np.full(len(later), play.labels[p, j])
            by_held = local.risk(base_rows(probabilities, held, later, held, changes))[0]
            by_base = local.risk(base_rows(probabilities, base[later], later, held, changes))[0]
            takes_base = by_base < by_held
            risk[p, j, later] = np.where(takes_base, by_base, by_held)
            wrong[p, j, later] = np.where(takes_base, base[later], held) != truth[later]
            held_wrong[p, j, later] = held != truth[later]
    rows = _replies(play, temperature)
    reply_risk = np.stack([model.risk(rows)[0] for model in reply])
    reply_risk[0] = 0.0
    return Stream(
        name,
        picture_risk,
        risk,
        held_wrong,
        wrong,
        reply_risk.astype(np.float32),
        play.labels != truth,
        play.nbytes,
    )


def _fitted(parts: Sequence[tuple[Floats, npt.NDArray[np.bool_]]]) -> RiskModel:
    return RiskModel(fit_prior(np.concatenate([one for one, _ in parts]), np.concatenate([own for _, own in parts])))


def _pairs(part: Answers, temperature: float, rng: np.random.Generator) -> list[tuple[Floats, npt.NDArray[np.bool_]]]:
    """Features, and whether the label is wrong, of held answers by the picture, and of local answers by the base model,
    for random pairs of a frame and an earlier question at a random precision."""
    n = len(part.base)
    probabilities = softmax(part.base, temperature)
    frames = rng.integers(1, n, _PAIRS)
    ages = np.exp(rng.uniform(0, np.log(min(_OLDEST, n - 1)), _PAIRS)).astype(np.int64)
    asked = np.maximum(0, frames - ages)
    held = part.labels[rng.integers(PRECISIONS, size=_PAIRS), asked]
    base, truth = probabilities.argmax(1)[frames], part.labels[0, frames]
    changes = _changes(part, probabilities, frames, asked)
    alone = rng.random(_PAIRS) < _NONE
    local = [
        (base_rows(probabilities, held, frames, held, changes)[~alone], (held != truth)[~alone]),
        (base_rows(probabilities, base, frames, held, changes)[~alone], (base != truth)[~alone]),
        (base_rows(probabilities, base, frames, None, changes)[alone], (base != truth)[alone]),
    ]
    rows = np.concatenate([one for one, _ in local]), np.concatenate([own for _, own in local])
    return [(changes[:, 1:], held != truth), rows]


def _changes(part: Answers, probabilities: Probabilities, frames: Labels, asked: Labels) -> Floats:
    """Distance of the base model's outputs, and the ``Change`` of the product's features, for each pair ``(m, 4)``."""
    block = np.abs(part.blocks[frames] - part.blocks[asked]).max((1, 2))
    square = ((part.thumbnails[frames] - part.thumbnails[asked]) ** 2).mean((1, 2))
    distance = jensen_shannon(probabilities[frames], probabilities[asked])
    return np.stack([distance, np.log1p(block), np.log1p(square), np.log1p(frames - asked)], 1)


def base_rows(
    probabilities: Probabilities, labels: Labels, frames: Labels, held: Labels | None, changes: Floats
) -> Floats:
    """The features of ``features.base_row`` without recalled answers and the label filter ``(m, 9)``.

    For many rows at once: a stream has 640,000. The least probability is ``_FLOOR``, a hundredth of the product's.
    """
    own, top = probabilities[frames, labels], probabilities[frames].max(1)
    is_held = np.zeros(len(labels)) if held is None else (labels == held).astype(np.float64)
    first = [np.log(np.maximum(own, _FLOOR)), np.log(np.maximum(1 - own, _FLOOR)), (own == top).astype(np.float64)]
    rows = [*first, np.log(np.maximum(1 - top, _FLOOR)), is_held, *(is_held * changes.T)]
    return np.stack(rows, 1)


def _replies(part: Answers, temperature: float) -> Floats:
    """Feature of the risk of a reply: the log probability that the base model is wrong ``(n, 1)``."""
    top = softmax(part.base, temperature).max(1)
    column: Floats = np.log(np.maximum(1 - top, _FLOOR))[:, None]
    return column
