"""Configuration of a build: all inputs that decide the bundle, except the frames and the full model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import msgspec

from cachenet.shared.bundle.manifest import digest
from cachenet.shared.command import jobs
from cachenet.shared.command.threads import default_threads
from cachenet.shared.inference.decoders import DecoderKind

#: ``auto``: INT8 if it is measured to be faster and to answer as many frames.
Precision = Literal["auto", "float16", "int8"]
#: Decoder of a full model that is a detector; ``auto``: found from its outputs.
DecoderChoice = Literal["auto", DecoderKind]
#: Multiply-adds of the base model, as a share of the full model's, if the user gives none.
DEFAULT_SHARES = (1 / 13,)
_Share = Annotated[float, msgspec.Meta(ge=0.001, le=1)]
_PREPROCESSING = (
    "Preprocessing of the full model: a preset (imagenet, efficientnet-lite, unit, signed, caffe, raw; of a detector "
    "also nanodet, yolox, fastestdet, yolo, ssd, detr), with changes after it (imagenet,stretch,bgr or "
    "unit,letterbox,320x180), or JSON as in a bundle (default: the model's metadata, or the usual one of a detector)."
)
_DECODER = (
    "Decoder of a full model that is a detector, from its outputs to boxes: ssd (finished boxes), yolox, yolov5, "
    "yolov8, nanodet, fastestdet, detr, heatmap; or auto, which finds it."
)
_LABELS = (
    "Text file with one label a line; of a detector with known names also some of them, to use only those (default: "
    "the model's metadata; COCO's for a detector of 80, 90 or 91 classes)."
)
_SHARES = (
    "Multiply-adds of local models, as a share of the full model's; repeat it for more sizes. The first is the base "
    "model's (default: 1/13, or less if the base model would take over a third of the full model's time)."
)
_SCENES = (
    "JSON file of lists of labels that appear together. The bundle is then certified on streams drawn from pictures in "
    "class directories."
)


class BuildSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``model-builder build``. Empty strings mean: not set."""

    #: Settings of earlier versions, and their replacements.
    REPLACED: ClassVar[dict[str, str]] = {
        "every": "use {frame_step}",
        "least": "use {min_coverage}",
        "refining": "use {refine_epochs}",
        "key": "sign the bundle afterwards, with 'model-builder sign'",
        "method": "labels are always partitioned by clusters of their embeddings",
    }
    FILE_ONLY: ClassVar[tuple[str, ...]] = (
        "embedding",
        "scenes",
        "base_preprocessing",
        "submodel_share",
        "min_coverage",
        "batch",
        "refine_epochs",
    )

    full: Annotated[str, msgspec.Meta(description="File of the full model, an ONNX image classifier or detector.")]
    data: Annotated[
        str, msgspec.Meta(description="Frames: a video, or a directory of pictures, class directories and videos.")
    ]
    out: Annotated[str, msgspec.Meta(description="Directory of the new bundle; a bundle there is replaced.")]
    held_out: Annotated[
        str,
        msgspec.Meta(
            description="Footage for tuning and certification, new to the full model (default: last 30 % of --data)."
        ),
    ] = ""
    preprocessing: Annotated[str, msgspec.Meta(description=_PREPROCESSING)] = ""
    decoder: Annotated[DecoderChoice, msgspec.Meta(description=_DECODER)] = "auto"
    labels: Annotated[str, msgspec.Meta(description=_LABELS)] = ""
    frame_step: Annotated[int, msgspec.Meta(ge=1, description="Step between the frames of a video that are used.")] = 1
    region: Annotated[
        str,
        msgspec.Meta(
            description="Part of each frame that is used: left,top,width,height, each 0 to 1, as for edge-agent run "
            "(default: all of it)."
        ),
    ] = ""
    base: Annotated[
        str,
        msgspec.Meta(
            description="File of an ONNX classifier that is the only local model, or of a detector, which is also "
            "fine-tuned to a submodel (default: local models are trained)."
        ),
    ] = ""
    share: Annotated[tuple[_Share, ...], msgspec.Meta(description=_SHARES)] = ()
    submodels: Annotated[
        int, msgspec.Meta(ge=0, le=256, description="Largest number of submodels, not counting general models.")
    ] = 12
    epochs: Annotated[
        int,
        msgspec.Meta(ge=4, le=10000, description="Epochs of a general model; 120 give a much better one."),
    ] = 30
    precision: Annotated[
        Precision, msgspec.Meta(description="Precision of local models: float16, int8, or auto, the better of both.")
    ] = "auto"
    quick: Annotated[
        bool, msgspec.Meta(description="Trial run: every stage takes a minute, and the bundle is not fit for use.")
    ] = False
    work: Annotated[
        str,
        msgspec.Meta(description="Directory of intermediate results, to resume from (default: in the user's cache)."),
    ] = ""
    threads: Annotated[
        int,
        msgspec.Meta(ge=1, description="Threads of the build (default: OMP_NUM_THREADS, or one per processor)."),
    ] = msgspec.field(default_factory=default_threads)
    cluster: Annotated[str, msgspec.Meta(description=jobs.HELP)] = ""
    embedding: Annotated[
        str,
        msgspec.Meta(description="Tensor of the embedding (default: input of the last layer with weights, or scores)."),
    ] = ""
    scenes: Annotated[str, msgspec.Meta(description=_SCENES)] = ""
    base_preprocessing: Annotated[
        str, msgspec.Meta(description="Preprocessing of --base, as --preprocessing (default: the model's metadata).")
    ] = ""
    submodel_share: Annotated[
        tuple[_Share, ...], msgspec.Meta(description="Sizes of submodels, among those of --share (default: all).")
    ] = ()
    min_coverage: Annotated[
        float,
        msgspec.Meta(ge=0, le=1, description="Share of frames answered that a submodel must add for each megabyte."),
    ] = 0.002
    batch: Annotated[int, msgspec.Meta(ge=8, le=4096, description="Frames in a training step of a general model.")] = (
        128
    )
    refine_epochs: Annotated[
        int, msgspec.Meta(ge=1, le=1000, description="Half epochs of a submodel, which starts from a general model.")
    ] = 3


@dataclass(frozen=True)
class BuildConfig:
    """All inputs that decide the bundle, except the frames and the full model.

    Attributes:
        shares: Multiply-adds of local models, as shares of the full model's; the first is the base model's.
        submodel_shares: The sizes of submodels, among ``shares``; empty for all.
        submodels: Largest number of submodels.
        least: Share of frames answered that a submodel must add for each megabyte of its file.
        scenes: Labels that appear together; empty if unknown.
        views: Augmented copies of the frames that the full model labels.
        epochs, batch: Of the training of a general model.
        refine_epochs: Epochs of the training of a submodel.
        tuning_pools, pools: Streams of each kind to tune and to certify with, if streams are drawn; see ``certify``.
        frames: Length of a drawn stream.
        precision: Of the local models' weights and activations.
        region: Part of each frame that is used, as text; empty for all of it.
    """

    name: str
    shares: tuple[float, ...] = DEFAULT_SHARES
    submodel_shares: tuple[float, ...] = ()
    submodels: int = 12
    min_coverage: float = 0.002
    scenes: tuple[tuple[int, ...], ...] = ()
    views: int = 4
    epochs: int = 30
    batch: int = 128
    refine_epochs: int = 3
    tuning_pools: int = 4
    pools: int = 10
    frames: int = 1000
    precision: Precision = "auto"
    region: str = ""
    seed: int = 0


#: Configuration of a trial run: every stage takes at most a minute.
QUICK = BuildConfig(
    "quick", submodels=2, min_coverage=0.0, views=1, epochs=2, refine_epochs=1, tuning_pools=1, pools=1, frames=60
)


def key(*parts: object) -> str:
    """Key of a cached result, from all that it depends on."""
    return digest(repr(parts).encode())[:16]
