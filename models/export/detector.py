"""Reads any ONNX detector and converts it to the form of bundle models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from cachenet.models.export.native import Native
from cachenet.shared.inference.decoders import Decoder, DecoderKind
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.image import Input


@dataclass(frozen=True)
class DetectorModel:
    """A detector in the form of bundle models.

    Example:
        model = load_detector(Path("nanodet.onnx"))
        found = model.detector(threads=2)(picture)
        print([model.labels[label] for label in found.labels])
    """

    graph: ModelProto  # Takes ``(1, channels, height, width)`` float32; its outputs are those of the decoder
    input: Input  # Preprocessing
    decoder: Decoder  # From outputs to boxes; ``classes`` are those of ``labels``
    labels: tuple[str, ...]  # Labels in use
    path: Path  # User's file
    native: Native  # Input of that file

    def detector(self, threads: int = 1) -> Detector:
        """The detector, running in this process. Raises ``UserError`` if ONNX Runtime cannot load it."""
        raise NotImplementedError


def is_detector(path: Path) -> bool:
    """Whether the outputs of the model in ``path`` are those of a detector and not of a classifier.

    Raises ``UserError`` if the file is no usable model.
    """
    raise NotImplementedError


def load_detector(
    path: Path,
    preprocessing: Input | None = None,
    labels: tuple[str, ...] | None = None,
    kind: DecoderKind | None = None,
) -> DetectorModel:
    """Read a detector and run it on probe images.

    Args:
        preprocessing: Preprocessing; None for that in the metadata, or the usual one of the decoder. What the graph
            fixes takes precedence.
        labels: Names of all classes in order, or some of the known names, to use only those; None for all known names.
        kind: Decoder; None to find it.

    Raises:
        UserError: The file is no usable detector, or it is unclear which.
    """
    raise NotImplementedError


def detector_graph(detector: DetectorModel, about: dict[str, str]) -> ModelProto:
    """The model for a bundle, with ``about`` in its metadata."""
    raise NotImplementedError
