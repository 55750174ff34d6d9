"""A trusted key: accepted bundles and stored signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.edge_agent.updates.updater import COMMIT_AFTER
from cachenet.shared.bundle.manifest import BundleError, digest
from cachenet.shared.bundle.trust import Key, Signer, generate
from tests.edge_agent.loaders import (
    Site,
    bundle,
    ready,
    site,
    small_chunks_and_short_timeouts,
    until,
)

__all__ = ["bundle", "site", "small_chunks_and_short_timeouts"]


def test_with_a_trusted_key_unsigned_bundles_are_refused(site: Site, tmp_path: Path) -> None:
    """Neither unsigned bundles nor those of another key are accepted or stored."""
    private, public = generate(tmp_path / "ours")
    other, _ = generate(tmp_path / "theirs")
    loader = site.loader(trusted=Key(public))
    for signature in (b"", Signer(other).sign(site.bundle.data), Signer(private).sign(b"something else")):
        with pytest.raises(BundleError, match="is not taken"):
            loader.announce(site.bundle.data, signature)
        assert "--trusted-key" in loader.errors
        assert loader.target is None
        assert site.store.current() is None
    loader.announce(site.bundle.data, Signer(private).sign(site.bundle.data))
    assert ready(loader).name == "base"


def test_a_signature_is_stored_as_long_as_its_manifest(site: Site, tmp_path: Path) -> None:
    """So that a device that starts without a network can trust what it has; an older version's goes."""
    private, public = generate(tmp_path / "keys")
    signature = Signer(private).sign(site.bundle.data)
    loader = site.loader(trusted=Key(public))
    loader.announce(site.bundle.data, signature)
    ready(loader)
    until(site.store.current)
    known = site.store.current()
    assert known is not None
    assert site.store.signature(known) == signature
    newer = site.bundle.data + b"\n"
    loader.announce(newer, Signer(private).sign(newer))
    assert ready(loader).version == digest(newer)
    for _ in range(COMMIT_AFTER):
        loader.on_answer(digest(newer))
    until(lambda: not site.store.signature(site.bundle.data))
    assert site.store.signature(newer)
    assert site.store.signature(site.bundle.data) == b""
