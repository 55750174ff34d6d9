"""A bundle: a directory with all models of a deployment, and a manifest with labels, parameters and digests.

The layout is NVIDIA Triton's model repository (``<model>/<version>/model.onnx``) with one ``bundle.json``. Devices
receive the manifest over MQTT. The version of a bundle is the SHA-256 of its manifest.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
import numpy as np

from cachenet.shared.cascade.detect.scene_features import SCENE_FEATURE_COUNT, SceneModel
from cachenet.shared.cascade.distribution import Distribution
from cachenet.shared.cascade.features import FEATURE_COUNT, Stage
from cachenet.shared.cascade.probability import Probabilities
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.cascade.types import UNKNOWN
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.decoders import Decoder
from cachenet.shared.inference.image import Input

#: Version of the manifest's format.
FORMAT = 3
#: Version before, without priors of the risk models; still read.
_FORMAT_WITHOUT_PRIORS = 2
#: File name of the manifest.
MANIFEST = "bundle.json"
#: Directory of a signed bundle's metadata; see ``shared.bundle.signing``.
METADATA = "metadata"
#: Least gain in F1 for which a device runs a submodel.
_MIN_GAIN = 0.02
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


#: What the models of a bundle give: one label a picture, or boxes with labels.
Task = Literal["classification", "detection"]


class BundleError(UserError):
    """A directory or manifest that is not a valid bundle. The message names the file."""


_DeviceName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model of a bundle. Every model has a score for each of the bundle's labels.

    Attributes:
        macs: Multiply-adds of a run.
        milliseconds: Time of a run on the machine that built the bundle.
        coverage: For each label, share of held-out frames that the model answers within its threshold, and as the full
            model does. Of a detector: its F1 against the full model on held-out frames, the same for each label; empty
            if unknown.
        classes: Indices of the labels of a submodel; empty for a model of all labels.
        decoder: How a detector's outputs become boxes; None for a classifier.
        answer_score: Of a detector: least score of a detection that is answered as it is; None where its tracks answer.
        devices: Devices on whose recent frames the submodel was proven; empty for all devices.
    """

    role: Literal["full", "base", "submodel"]
    file: str
    bytes: int
    sha256: str
    input: Input
    temperature: float
    parameters: int
    macs: int
    milliseconds: float
    coverage: tuple[float, ...]
    classes: tuple[int, ...] = ()
    decoder: Decoder | None = None
    answer_score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    devices: tuple[_DeviceName, ...] = ()


#: Kind of exit heads: centroids of activations (``freeze``), or networks trained on them (``gati``).
ExitKind = Literal["freeze", "gati"]
EXIT_KINDS: tuple[ExitKind, ...] = get_args(ExitKind)
ExitFlag = Literal["off", ExitKind]
#: Structure of an exit head.
HeadKind = Literal["centroids", "pooled", "hidden", "convolution"]
#: Most exit heads of a full model.
_MAX_EXITS = 8
_Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_Positive = Annotated[int, msgspec.Meta(gt=0)]


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exit head of the full model.

    Attributes:
        tensors: Names of all tensors that the rest of the full model needs.
        share: Share of the full model's multiply-adds before the exit.
        temperature: Calibration temperature of the head's label.
        threshold: Largest risk of an exit, with the request's prior.
        reserve: Factor on the temperature at which the head's confidence matches the whole model's.
    """

    kind: HeadKind
    file: str
    bytes: _Positive
    sha256: str
    tensors: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=8)]
    share: _Share
    temperature: Annotated[float, msgspec.Meta(gt=0)]
    threshold: _Share
    reserve: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Layers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The exit heads of one kind.

    Attributes:
        caches: The heads, in the order of the layers.
        wrong: Certified share of requests with another label than the whole model's, without request priors.
        confidence: Confidence of the certificate.
        frames: Frames of the certificate.
    """

    caches: Annotated[tuple[Layer, ...], msgspec.Meta(min_length=1, max_length=_MAX_EXITS)]
    wrong: _Share
    confidence: _Share
    frames: _Positive


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of the golden frames; see ``shared.bundle.golden_frames``."""

    file: Literal["golden.msgpack"]
    bytes: _Positive
    sha256: str


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measurement on held-out footage with one risk budget.

    Attributes:
        max_disagreement: The budget: mean share of all answers that may disagree with the full model.
        disagreement: Measured share of answers that disagree, without audits.
        at_most: Upper confidence bound on that share; 1 with too little footage.
        asked: Share of frames that the full model answered.
        blocks: Number of independent blocks of consecutive frames.
        blocks_needed: Number of blocks with which the bound would be within the budget at the measured share; 0 if no
            number would do.
    """

    max_disagreement: _Share
    disagreement: Annotated[float, msgspec.Meta(ge=0, le=1)]
    at_most: Annotated[float, msgspec.Meta(ge=0, le=1)]
    confidence: _Share
    asked: Annotated[float, msgspec.Meta(ge=0, le=1)]
    blocks: Annotated[int, msgspec.Meta(ge=0)]
    blocks_needed: Annotated[int, msgspec.Meta(ge=0)] = 0

    @property
    def holds(self) -> bool:
        """Whether the budget is certified."""
        return self.at_most <= self.max_disagreement


class _Format(msgspec.Struct):
    """The field that decides about the others."""

    format: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``bundle.json``.

    Attributes:
        provenance: Source and tools of the build.
        priors: Priors of the risk models of a classifier by stage; empty without footage.
        scene_priors: Priors of the risk models of a detector by name; empty without footage.
        certificates: Certificates by increasing budget.
        distribution: Scores on the bundle's own footage; None where unknown.
        entropy: Entropy threshold of the published CacheNet rule, nats, for the simulator; 0 without submodels.
        layers: Exit heads of the full model by kind.
    """

    format: int
    name: str
    task: Task
    labels: tuple[str, ...]
    models: dict[str, Model]
    provenance: dict[str, str]
    priors: dict[Stage, RiskPrior] = {}
    scene_priors: dict[SceneModel, RiskPrior] = {}
    certificates: tuple[Certificate, ...] = ()
    distribution: Distribution | None = None
    entropy: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    layers: dict[ExitKind, Layers] = {}
    golden: Golden | None = None

    def files(self) -> dict[str, str]:
        """Digest of each file by its path in the bundle."""
        digests = {model.file: model.sha256 for model in self.models.values()}
        if self.golden is not None:
            digests[self.golden.file] = self.golden.sha256
        return digests | {one.file: one.sha256 for layers in self.layers.values() for one in layers.caches}

    def only(self, role: Literal["full", "base"]) -> str:
        """Name of the one model with this role."""
        return next(name for name, model in self.models.items() if model.role == role)

    def submodels(self) -> list[str]:
        """Names of the submodels."""
        return [name for name, model in self.models.items() if model.role == "submodel"]

    def common_submodels(self) -> list[str]:
        """Names of the submodels for all devices."""
        return [name for name in self.submodels() if not self.models[name].devices]

    def own_submodel(self, device: str) -> str | None:
        """Name of the newest submodel that was proven for ``device``; None for none."""
        own = [name for name in self.submodels() if device in self.models[name].devices]
        return own[-1] if own else None

    def better_detector(self, device: str = "") -> str | None:
        """The detector that ``device`` runs in place of the base model; None for the base model.

        That is the submodel that was proven for the device, or else the one with the best F1 on held-out footage. The
        base model counts as equal within ``_MIN_GAIN``, and where a model's F1 is unknown.
        """
        if (own := self.own_submodel(device)) is not None:
            return own
        f1 = {name: min(model.coverage, default=0.0) for name, model in self.models.items()}
        best = max(self.common_submodels(), key=f1.__getitem__, default=None)
        base = f1[self.only("base")]
        return best if best is not None and base > 0.0 and f1[best] > base + _MIN_GAIN else None

    def general_models(self) -> list[str]:
        """Names of a classifier's submodels for all labels: general models of other sizes than the base model."""
        general = [name for name in self.common_submodels() if not self.models[name].classes]
        return general if self.task == "classification" else []

    def initial_submodels(self, device: str) -> list[str]:
        """Names of the submodels that ``device`` loads without a recommendation: it may have no server."""
        better = self.better_detector(device) if self.task == "detection" else None
        return [better] if better is not None else self.general_models()

    @property
    def risk_version(self) -> str:
        """Digest of what the risk models of a device depend on: full and base model, and all priors but submodels'.

        What a device has learned stays valid in a bundle with other submodels.
        """
        models = [(one.sha256, one.temperature) for one in self.models.values() if one.role != "submodel"]
        priors = {stage: prior for stage, prior in self.priors.items() if stage != "submodel"}
        scene_priors = {name: prior for name, prior in self.scene_priors.items() if not name.startswith("submodel")}
        return digest(msgspec.json.encode((models, priors, scene_priors)))

    def certificate(self, max_disagreement: float) -> Certificate | None:
        """The certificate of this budget; None for none."""
        return next((one for one in self.certificates if abs(one.max_disagreement - max_disagreement) < 1e-9), None)

    def label(self, index: int | None) -> str:
        """Name of a label; ``unknown`` for None."""
        return UNKNOWN if index is None else self.labels[index]

    def expected_coverage(self, model: str, labels: Probabilities) -> float:
        """Expected share of frames that ``model`` answers; ``labels``: probability of each label ``(classes,)``."""
        return float(np.dot(labels, self.models[model].coverage))


def parse(data: bytes) -> Manifest:
    """Decode and check a manifest. Raises ``BundleError``."""
    try:
        format_ = msgspec.json.decode(data, type=_Format).format
        if format_ == _FORMAT_WITHOUT_PRIORS:
            manifest = _from_format_2(data)
        elif format_ == FORMAT:
            manifest = msgspec.json.decode(data, type=Manifest)
        else:
            raise BundleError(f"{MANIFEST}: format {format_}, this version reads {FORMAT}; build the bundle again")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST}: {error}") from None
    roles = [model.role for model in manifest.models.values()]
    if not _NAME.fullmatch(manifest.name) or not all(_NAME.fullmatch(name) for name in manifest.models):
        raise BundleError(f"{MANIFEST}: a name is not of lower-case letters, digits and . _ -")
    detects = manifest.task == "detection"
    if len(manifest.labels) < (1 if detects else 2) or roles.count("full") != 1 or roles.count("base") != 1:
        labels = "a label" if detects else "two labels"
        raise BundleError(f"{MANIFEST}: needs {labels}, one full model and one base model at least")
    for name, model in manifest.models.items():
        # The name becomes a path on this machine, so only the name of the layout is accepted.
        if model.file != f"{name}/1/model.onnx" or not _SHA256.fullmatch(model.sha256):
            raise BundleError(f"{MANIFEST}: {name} has a file name or digest out of form")
        if len(model.coverage) not in ({0, len(manifest.labels)} if detects else {len(manifest.labels)}) or any(
            not 0 <= label < len(manifest.labels) for label in model.classes
        ):
            raise BundleError(f"{MANIFEST}: {name} does not fit the labels")
        if detects != (model.decoder is not None):
            raise BundleError(
                f"{MANIFEST}: {name} has {'no' if detects else 'a'} decoder, and the task is {manifest.task}"
            )
        if model.decoder is not None and len(model.decoder.classes) != len(manifest.labels):
            raise BundleError(f"{MANIFEST}: {name} has a decoder that does not fit the labels")
        if not (model.temperature > 0 and model.bytes > 0):
            raise BundleError(f"{MANIFEST}: {name} has a size or temperature that cannot be")
    if not all(prior.check(FEATURE_COUNT[stage]) for stage, prior in manifest.priors.items()) or not all(
        prior.check(SCENE_FEATURE_COUNT[name]) for name, prior in manifest.scene_priors.items()
    ):
        raise BundleError(f"{MANIFEST}: a prior is out of form")
    if manifest.golden is not None and not _SHA256.fullmatch(manifest.golden.sha256):
        raise BundleError(f"{MANIFEST}: the golden frames have a digest out of form")
    for way, layers in manifest.layers.items():
        for number, layer in enumerate(layers.caches, 1):
            if layer.file != layer_file(way, number) or not _SHA256.fullmatch(layer.sha256):
                raise BundleError(f"{MANIFEST}: cache {number} of {way} has a file name or digest out of form")
            if layer.file in (model.file for model in manifest.models.values()):
                raise BundleError(f"{MANIFEST}: cache {number} of {way} has the file of a model")
    return manifest


def _from_format_2(data: bytes) -> Manifest:
    """Read a manifest without priors, so that an upgraded device can use its models. Obsolete fields are dropped."""
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    known = {name: value for name, value in fields.items() if name not in ("gates", "context", "format")}
    return msgspec.json.decode(msgspec.json.encode({**known, "format": FORMAT}), type=Manifest)


def layer_file(way: ExitKind, number: int) -> str:
    """Path in a bundle of the exit head after segment ``number``, from 1."""
    return f"{way}-{number}/1/model.onnx"


def digest(data: bytes) -> str:
    """SHA-256 of ``data``, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 18):
            sha256.update(piece)
    return sha256.hexdigest()


class Bundle:
    """A bundle on disk, with verified digests.

    Attributes:
        data: Bytes of the manifest.
        signed: Whether there is metadata of a signature. It is not verified here.
        version: SHA-256 of the manifest.

    Example:
        bundle = Bundle(Path("models/zoo/cifar10"))
        print(bundle.manifest.labels, bundle.path("base"))
    """

    def __init__(self, directory: Path) -> None:
        """Open and verify a bundle. Raises ``BundleError``."""
        self.directory = directory
        try:
            self.data = (directory / MANIFEST).read_bytes()
        except OSError as error:
            raise BundleError(f"{directory} is no bundle: {error.strerror} ({MANIFEST})") from None
        self.signed = (directory / METADATA / "targets.json").exists()
        self.manifest = parse(self.data)
        self.version = digest(self.data)
        for file, sha256 in self.manifest.files().items():
            path = directory / file
            try:
                found = file_digest(path)
            except OSError as error:
                raise BundleError(f"{path}: {error.strerror}") from None
            if found != sha256:
                name = file.split("/")[0]
                raise BundleError(f"{path}: digest differs from the manifest's; the copy of {name} is damaged")

    def path(self, model: str) -> Path:
        """Path of the file of the model with this name."""
        return self.find(self.manifest.models[model])

    def find(self, one: Model | Layer | Golden) -> Path:
        """Path of the file of a model, an exit head or the golden frames."""
        return self.directory / one.file
