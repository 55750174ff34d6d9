"""Catalogues that a loader follows."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

from cachenet.shared.bundle.manifest import Bundle, BundleError
from tests.bundles import tiny_bundle
from tests.edge_agent.links import BlobServer
from tests.edge_agent.loaders import (
    Site,
    bundle,
    edited,
    ready,
    site,
    small_chunks_and_short_timeouts,
)

__all__ = ["bundle", "site", "small_chunks_and_short_timeouts"]


def test_a_newer_version_of_the_bundle_is_installed_and_another_bundle_is_not(site: Site, tmp_path: Path) -> None:
    loader = site.loader()
    loader.announce(site.bundle.data)
    ready(loader)
    newer = Bundle(tiny_bundle(tmp_path / "newer", seed=1))
    site.server.files |= BlobServer(newer).files
    foreign = edited(tiny_bundle(tmp_path / "foreign", seed=2), lambda manifest: manifest.update(name="foreign"))
    loader.announce(foreign)
    assert loader.version == site.bundle.version
    loader.announce(newer.data)
    loaded = ready(loader)
    assert (loaded.version, loaded.first) == (newer.version, True)
    loader.announce(newer.data)
    with pytest.raises(queue.Empty):
        loader.ready.get(timeout=0.2)


def test_a_catalogue_that_is_no_manifest_changes_nothing(site: Site) -> None:
    loader = site.loader()
    loader.announce(site.bundle.data)
    ready(loader)
    with pytest.raises(BundleError):
        loader.announce(site.bundle.data[:-5])
    assert loader.version == site.bundle.version
