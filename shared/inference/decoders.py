"""Decoders: from the output tensors of a detector to detections, described as data."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

DecoderKind = Literal["ssd", "yolox", "yolov5", "yolov8", "nanodet", "fastestdet", "detr", "heatmap"]
DECODER_KINDS: tuple[DecoderKind, ...] = get_args(DecoderKind)

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Decoder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the output of a detector becomes detections; part of a bundle.

    Attributes:
        kind: Structure of the output tensors.
        classes: For each label of the bundle, the index of the detector's class.
        score: Least score of a detection.
        overlap: Largest intersection over union of two detections of one label (non-maximum suppression).
    """

    kind: DecoderKind
    classes: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    score: _Share = 0.4
    overlap: _Share = 0.6
