"""A bundle: every model, label, threshold and digest that a deployment needs, in one directory.

The layout is NVIDIA Triton's model repository (``<model>/<version>/model.onnx``) beside one ``bundle.json``. The
manifest is the catalogue entry that travels to devices; its version is the SHA-256 of its bytes.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
import numpy as np

from cachenet.shared.cascade.distribution import Distribution
from cachenet.shared.cascade.features import COUNT, Stage
from cachenet.shared.cascade.probability import Probabilities
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.cascade.types import UNKNOWN
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Input

FORMAT = 3
#: The format before, which had no priors.
_WITHOUT_RISKS = 2
MANIFEST, SIGNATURE = "bundle.json", "bundle.sig"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class BundleError(UserError):
    """A directory or manifest that is no usable bundle; the message says what is wrong with which file."""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of a bundle. Every model answers with scores for all the bundle's labels.

    ``classes``: the labels a submodel is specialised in, as indices; empty for the others. ``coverage``: per label,
    the share of held-out images that the model alone answers surely enough and as the full model does; what the
    selector compares. ``milliseconds``: one run on the machine that built the bundle, to compare models with.
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


#: Ways to make caches between layers: centroids of activations, or networks trained on them.
Way = Literal["freeze", "gati"]
WAYS: tuple[Way, ...] = get_args(Way)
WayFlag = Literal["off", Way]
Kind = Literal["centroids", "pooled", "hidden", "convolution"]
_MOST_CACHES = 8
_Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_Positive = Annotated[int, msgspec.Meta(gt=0)]


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cache between two layers of the full model, where ``share`` of its multiply-adds are done.

    ``tensors``: all that the layers after it need, the picture too where they do. It answers where its risk, with
    ``temperature`` and the request's context, is at most ``threshold``. ``reserve``: how many times that temperature
    its scores need to be as sure as the whole model is, for they tell what label that will say better than how sure it
    will be.
    """

    kind: Kind
    file: str
    bytes: _Positive
    sha256: str
    tensors: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=8)]
    share: _Share
    temperature: Annotated[float, msgspec.Meta(gt=0)]
    threshold: _Share
    reserve: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Layers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The caches of one way, in the order of the layers. ``wrong``: the share of requests to which they may give
    another answer than the whole model, proven without context on ``frames`` frames with this ``confidence``."""

    caches: Annotated[tuple[Layer, ...], msgspec.Meta(min_length=1, max_length=_MOST_CACHES)]
    wrong: _Share
    confidence: _Share
    frames: _Positive


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of the golden frames (see ``shared.bundle.golden_frames``)."""

    file: Literal["golden.msgpack"]
    bytes: _Positive
    sha256: str


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was found on held-out footage with one risk budget.

    Attributes:
        max_disagreement: The budget: mean share of all answers that may disagree with the full model.
        disagreement: The share that did, audits off.
        at_most: Upper bound on it at ``confidence``; 1 where there was too little footage to certify anything.
        confidence: Of the bound.
        asked: Share of frames that the full model was asked about.
        blocks: Independent blocks of consecutive frames that were measured.
        blocks_needed: Blocks at which the bound would be within the budget, if the rate stayed what it is; 0 where no
            number of them would do.
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
    """What tells which fields the rest has."""

    format: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``bundle.json``.

    Attributes:
        priors: Where the risk models start, by how far a frame has been looked at; empty where there was no footage.
        certificates: In order of growing budget.
        distribution: What scores look like on the footage that the bundle was made for; None where nobody knows.
        entropy: Threshold, nats, of CacheNet's rule as published, for the simulator; 0 where there are no submodels.
        provenance: What the bundle was built from and with.
        layers: Caches between the full model's layers.
        golden: Pictures that devices try models on before they use them.
    """

    format: int
    name: str
    task: Literal["classification"]
    labels: tuple[str, ...]
    models: dict[str, Model]
    provenance: dict[str, str]
    priors: dict[Stage, RiskPrior] = {}
    certificates: tuple[Certificate, ...] = ()
    distribution: Distribution | None = None
    entropy: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    layers: dict[Way, Layers] = {}
    golden: Golden | None = None

    def files(self) -> dict[str, str]:
        """The digest of every file, by its place in the bundle."""
        found = {model.file: model.sha256 for model in self.models.values()}
        if self.golden is not None:
            found[self.golden.file] = self.golden.sha256
        return found | {one.file: one.sha256 for layers in self.layers.values() for one in layers.caches}

    def only(self, role: Literal["full", "base"]) -> str:
        """Name of the one model with that role."""
        return next(name for name, model in self.models.items() if model.role == role)

    def submodels(self) -> list[str]:
        return [name for name, model in self.models.items() if model.role == "submodel"]

    def generals(self) -> list[str]:
        """Those of the submodels that are meant for all labels: general models in other sizes than the base model's."""
        return [name for name in self.submodels() if not self.models[name].classes]

    def certificate(self, max_disagreement: float) -> Certificate | None:
        """The one of this very budget; None where there is none."""
        return next((one for one in self.certificates if abs(one.max_disagreement - max_disagreement) < 1e-9), None)

    def label(self, index: int | None) -> str:
        """Name of a label; ``unknown`` of None."""
        return UNKNOWN if index is None else self.labels[index]

    def expected_coverage(self, model: str, labels: Probabilities) -> float:
        """Share of frames that ``model`` would answer if labels came with these probabilities."""
        return float(np.dot(labels, self.models[model].coverage))


def parse(data: bytes) -> Manifest:
    """Decode and check a manifest, from a file or the catalogue. Raises ``BundleError``."""
    try:
        format_ = msgspec.json.decode(data, type=_Format).format
        if format_ == _WITHOUT_RISKS:
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
    if len(manifest.labels) < 2 or roles.count("full") != 1 or roles.count("base") != 1:
        raise BundleError(f"{MANIFEST}: needs two labels, one full model and one base model at least")
    for name, model in manifest.models.items():
        # The file name becomes a path on this machine, so it must be exactly what the layout says.
        if model.file != f"{name}/1/model.onnx" or not _SHA256.fullmatch(model.sha256):
            raise BundleError(f"{MANIFEST}: {name} has a file name or digest out of form")
        if len(model.coverage) != len(manifest.labels) or any(
            not 0 <= label < len(manifest.labels) for label in model.classes
        ):
            raise BundleError(f"{MANIFEST}: {name} does not fit the labels")
        if not (model.temperature > 0 and model.bytes > 0):
            raise BundleError(f"{MANIFEST}: {name} has a size or temperature that cannot be")
    if not all(prior.check(COUNT[stage]) for stage, prior in manifest.priors.items()):
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
    """A manifest of before there were priors: a device that is upgraded goes on with the models that it has. What it
    said of gates and context means nothing any more."""
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    kept = {name: value for name, value in fields.items() if name not in ("gates", "context", "format")}
    return msgspec.json.decode(msgspec.json.encode({**kept, "format": FORMAT}), type=Manifest)


def layer_file(way: Way, number: int) -> str:
    """Where the cache after segment ``number``, from 1, is in a bundle."""
    return f"{way}-{number}/1/model.onnx"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 18):
            found.update(piece)
    return found.hexdigest()


class Bundle:
    """A bundle on disk whose files have been checked against the manifest."""

    def __init__(self, directory: Path) -> None:
        """Open and verify ``directory``. Raises ``BundleError``."""
        self.directory = directory
        try:
            self.data = (directory / MANIFEST).read_bytes()
        except OSError as error:
            raise BundleError(f"{directory} is no bundle: {error.strerror} ({MANIFEST})") from None
        try:
            #: Of the manifest; empty where nobody has signed it. Who trusts a key checks it.
            self.signature = (directory / SIGNATURE).read_bytes()
        except FileNotFoundError:
            self.signature = b""
        except OSError as error:
            raise BundleError(f"{directory / SIGNATURE}: {error.strerror}") from None
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
        return self.find(self.manifest.models[model])

    def find(self, one: Model | Layer | Golden) -> Path:
        """Where the file of a model, of a cache or of the golden frames is."""
        return self.directory / one.file
