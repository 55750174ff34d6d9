"""An in-memory repository of signed bundles: builder, server and device, with a clock that a test sets."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import msgspec

from cachenet.cloud_server.serving.signer import CatalogueSigner
from cachenet.models.signing import KeyDirectory
from cachenet.shared.bundle.manifest import MANIFEST, Bundle
from cachenet.shared.bundle.signing import Files, utc
from cachenet.shared.bundle.trust import Known, TrustedRoot, Verified
from tests.bundles import tiny_bundle

#: Time of the first signature, seconds since the epoch.
BEGIN = 1_800_000_000.0
HOUR, DAY = timedelta(hours=1).total_seconds(), timedelta(days=1).total_seconds()


class Repository:
    """The keys of a builder, its bundle ``tiny``, and the server that publishes it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now = directory, BEGIN
        self.bundle = Bundle(tiny_bundle(directory / "bundle"))
        self.keys = KeyDirectory.create(directory / "keys", utc(self.now))
        self.root_file = directory / "first-root.json"
        shutil.copy(directory / "keys/root.json", self.root_file)
        self.sign()
        self.start_server()

    def sign(self, permission: bool = True) -> None:
        self.keys = KeyDirectory(self.directory / "keys")
        self.keys.sign(self.bundle, utc(self.now), permission)
        self.bundle = Bundle(self.bundle.directory)

    def change(self, seed: int = 1) -> None:
        """The builder's next version, in a directory of its own."""
        self.bundle = Bundle(tiny_bundle(self.directory / f"bundle-{seed}", seed))
        self.sign()
        self.start_server()

    def start_server(self, key: Path | None = None) -> None:
        key = key or self.directory / "keys/server.key"
        self.server = CatalogueSigner(self.bundle, key, lambda: self.now)

    def trained(self, name: str = "update-001-cam", device: str = "cam") -> Bundle:
        """The bundle with a submodel that the server has trained; its file is that of the base model."""
        out = self.directory / name
        if not out.exists():
            shutil.copytree(self.bundle.directory, out)
            (out / name / "1").mkdir(parents=True)
            shutil.copy(self.bundle.path("base"), out / name / "1/model.onnx")
            base = self.bundle.manifest.models["base"]
            own = msgspec.structs.replace(base, role="submodel", file=f"{name}/1/model.onnx", devices=(device,))
            models = {**self.bundle.manifest.models, name: own}
            (out / MANIFEST).write_bytes(
                msgspec.json.encode(msgspec.structs.replace(self.bundle.manifest, models=models))
            )
        return Bundle(out)

    def publish(self, served: Bundle | None = None) -> Files:
        self.server.due()
        return self.server.sign(served or self.bundle)


class Client:
    """A device that trusts the first root of a repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository, self._root = repository, TrustedRoot(repository.root_file)
        self.known: Known | None = None
        #: Time of the device's clock; None: that of the repository.
        self.clock: float | None = None

    def take(self, files: Files) -> Verified:
        """Verify a catalogue and remember it. Raises ``UntrustedError``."""
        clock = self._repository.now if self.clock is None else self.clock
        verified = self._root.verify("tiny", files, clock, self.known)
        self.known = Known(verified.files)
        return verified
