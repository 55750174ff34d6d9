"""A newer version of a bundle that a server rolls out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachenet.shared.bundle.manifest import MANIFEST, Bundle, BundleError

if TYPE_CHECKING:
    from cachenet.cloud_server.serving.signer import CatalogueSigner


@dataclass(frozen=True)
class Canary:
    """A version to roll out.

    Attributes:
        share: Share of the ``devices`` that take it first.
        devices: Pattern of the names of devices that may take it first.
        signer: Signs it; None for an unsigned bundle.
    """

    bundle: Bundle
    share: float
    devices: str
    signer: CatalogueSigner | None = None

    def files(self) -> dict[str, bytes]:
        """The manifest, with fresh signatures if there are any."""
        return {MANIFEST: self.bundle.data} if self.signer is None else self.signer.sign(self.bundle)

    def check(self, stable: Bundle) -> None:
        """Check that it is a newer version of ``stable``. Raises ``BundleError``."""
        own, other, where = self.bundle.manifest, stable.manifest, self.bundle.directory
        if own.name != other.name:
            raise BundleError(f"--canary {where} is the bundle {own.name}, and {other.name} is served")
        if self.bundle.version == stable.version:
            raise BundleError(f"--canary {where} is the version that is served")
        if own.models[own.only("full")].sha256 != other.models[other.only("full")].sha256:
            raise BundleError(
                f"--canary {where} has another full model, by which its answers could not be compared; serve it to all "
                "devices with --bundle"
            )
