"""Which catalogues a keeper takes up."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

from cachenet.shared.bundle.manifest import Bundle, BundleError
from tests.bundles import tiny_bundle
from tests.edge_agent.keepers import (
    Site,
    bundle,
    edited,
    ready,
    site,
    small_pieces_and_little_patience,
)
from tests.edge_agent.links import BlobServer

__all__ = ["bundle", "site", "small_pieces_and_little_patience"]


def test_a_newer_catalogue_of_the_same_bundle_is_taken_up_and_another_bundles_is_not(
    site: Site, tmp_path: Path
) -> None:
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    ready(keeper)
    newer = Bundle(tiny_bundle(tmp_path / "newer", seed=1))
    site.server.files |= BlobServer(newer).files
    foreign = edited(tiny_bundle(tmp_path / "foreign", seed=2), lambda manifest: manifest.update(name="foreign"))
    keeper.announce(foreign)
    assert keeper.version == site.bundle.version
    keeper.announce(newer.data)
    loaded = ready(keeper)
    assert (loaded.version, loaded.first) == (newer.version, True)
    keeper.announce(newer.data)
    with pytest.raises(queue.Empty):
        keeper.ready.get(timeout=0.2)


def test_a_catalogue_that_is_no_manifest_changes_nothing(site: Site) -> None:
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    ready(keeper)
    with pytest.raises(BundleError):
        keeper.announce(site.bundle.data[:-5])
    assert keeper.version == site.bundle.version
