from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, BundleError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_installed_bundle_is_found_by_its_name_from_any_directory() -> None:
    assert zoo.installed()
    for name in zoo.installed():
        assert name in zoo.HELP
        assert Bundle(zoo.find(name)).manifest.name == name


def test_a_users_bundle_has_precedence_over_an_installed_one(tmp_path: Path) -> None:
    own = tmp_path / "cifar10"
    own.mkdir()
    assert zoo.find("cifar10") == zoo.DIRECTORY / "cifar10"  # a directory of images is no bundle
    (own / MANIFEST).write_bytes(b"{}")
    assert zoo.find("cifar10") == Path("cifar10")


@pytest.mark.parametrize("name", ["cifar", "models/zoo/cifar10", "../cifar10"])
def test_an_unknown_bundle_is_refused_with_the_names_of_the_installed_ones(name: str) -> None:
    with pytest.raises(
        BundleError, match=f"{name} is no bundle: .* installed bundles are campus, cifar10, imagenet-lite$"
    ):
        zoo.find(name)


def test_a_directory_without_a_manifest_is_returned(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match=r"mine is no bundle: .*bundle\.json"):
        Bundle(zoo.find("mine"))


def test_an_installation_without_bundles_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "DIRECTORY", tmp_path)
    with pytest.raises(BundleError, match=r"cifar10 is no bundle: .* no bundle is installed$"):
        zoo.find("cifar10")
