"""Updates: a newer set takes over when it has shown that it can, and the one before comes back when it fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from cachenet.edge_agent.updates import updater as module
from cachenet.edge_agent.updates.downloader import RESERVED_BYTES
from cachenet.edge_agent.updates.probe import ProbeAborted, ProbeError
from cachenet.edge_agent.updates.store import Store, StoreError
from cachenet.edge_agent.updates.update_record import MAX_CRASHES, UpdateRecord
from cachenet.edge_agent.updates.updater import COMMIT_AFTER, Updater
from cachenet.shared.bundle.manifest import Bundle, Manifest, digest, file_digest
from cachenet.shared.command import atomic_files
from cachenet.shared.command.supervision import failures
from cachenet.shared.transport.protocol import BlobRequest, Chunk
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import install_current, install_files
from tests.edge_agent.links import BlobServer
from tests.edge_agent.loaders import (
    LoaderWithUpdater,
    Site,
    bundle,
    edited,
    no_probe,
    site,
    small_chunks_and_short_timeouts,
    until,
)

__all__ = ["bundle", "site", "small_chunks_and_short_timeouts"]


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("newer"), seed=1))


@pytest.fixture
def device(site: Site, newer: Bundle) -> Callable[..., LoaderWithUpdater]:
    """Start the device anew over the same store, whose current set is ``bundle``, with a server that has ``newer``."""
    install_current(install_files(site.store, site.bundle), site.bundle.data)
    site.server.files |= BlobServer(newer).files

    def start(probe: Any = no_probe) -> LoaderWithUpdater:
        loader = site.loader(probe=probe, restore=True)
        assert loader.updater is not None
        return loader

    return start


def state(loader: LoaderWithUpdater) -> str:
    assert loader.updater is not None
    return loader.updater.status


def deployed(loader: LoaderWithUpdater, version: str) -> None:
    """Answer frames until this version is deployed, without answering one with it."""
    until(lambda: loader.ready.get(timeout=10.0).version == version)


def on_trial(loader: LoaderWithUpdater, newer: Bundle) -> None:
    """Bring ``newer`` to its trial."""
    loader.announce(newer.data)
    deployed(loader, newer.version)
    loader.on_answer(newer.version)
    until(lambda: stored_version(loader) == newer.version)


def stored_version(loader: LoaderWithUpdater) -> str:
    assert loader._store is not None
    data = loader._store.current()
    return digest(data) if data is not None else ""


def kill(loader: LoaderWithUpdater) -> None:
    """End the device as ``kill -9`` does, as far as the store can tell: nothing is written any more."""
    assert loader.updater is not None
    loader.updater._current = loader.updater._candidate = None
    loader.stop()


def test_a_newer_set_becomes_current_only_once_it_has_answered(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    loader = device()
    deployed(loader, site.bundle.version)
    loader.announce(newer.data)
    deployed(loader, newer.version)
    assert state(loader) == "trial"
    assert site.store.current() == site.bundle.data
    loader.on_answer(newer.version)
    until(lambda: site.store.current() == newer.data)


def test_the_previous_set_stays_complete_until_the_commit(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    loader = device()
    on_trial(loader, newer)
    for _ in range(COMMIT_AFTER - 2):
        loader.on_answer(newer.version)
    assert site.store.previous("tiny") == site.bundle.data
    assert all(site.store.path(model.sha256) for model in site.bundle.manifest.models.values())
    assert state(loader) == "trial"
    loader.on_answer(newer.version)
    until(lambda: state(loader) == "committed")
    assert site.store.previous("tiny") is None
    assert not any(site.store.has_file(model.sha256) for model in site.bundle.manifest.models.values())


def test_a_set_that_fails_on_trial_is_rolled_back(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    loader = device()
    on_trial(loader, newer)
    assert loader.on_failure(newer.version, "base: inference failed")
    deployed(loader, site.bundle.version)
    until(lambda: state(loader) == "failed (base: inference failed)")
    assert site.store.current() == site.bundle.data
    loader.stop()
    again = device()
    deployed(again, site.bundle.version)
    again.announce(newer.data)
    until(lambda: state(again) == "failed (base: inference failed)")
    assert again.version == site.bundle.version, "it is not tried again"


def test_a_set_that_fails_before_it_has_answered_never_becomes_current(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    loader = device()
    loader.announce(newer.data)
    deployed(loader, newer.version)
    assert loader.on_failure(newer.version, "it hangs")
    deployed(loader, site.bundle.version)
    until(lambda: state(loader) == "failed (it hangs)")
    assert (site.store.current(), site.store.candidate()) == (site.bundle.data, None)


def test_a_committed_set_is_not_rolled_back(device: Callable[..., LoaderWithUpdater], site: Site) -> None:
    """There is nothing to go back to, and what worked for so long fails for another reason."""
    loader = device()
    deployed(loader, site.bundle.version)
    assert not loader.on_failure(site.bundle.version, "memory is short")
    assert loader.version == site.bundle.version


def test_a_set_that_fails_the_probe_is_rejected_until_the_catalogue_changes(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle, tmp_path: Path
) -> None:
    probed: list[str] = []

    def probe(manifest: Manifest, names: Iterable[str], _files: dict[str, Path]) -> None:
        probed.extend(names)
        if manifest == newer.manifest:
            raise ProbeError("base: gives scores that are not finite")

    loader = device(probe)
    loader.announce(newer.data)
    until(lambda: state(loader) == "failed (base: gives scores that are not finite)")
    loader.announce(newer.data)
    assert loader.version == site.bundle.version
    loader.stop()
    again = device(probe)
    again.announce(newer.data)
    until(lambda: state(again).startswith("failed"))
    assert probed == ["base"], "once, and the current set's not at all: there would be nothing to answer with"
    third = Bundle(tiny_bundle(tmp_path / "third", seed=2))
    site.server.files |= BlobServer(third).files
    again.announce(third.data)
    deployed(again, third.version)


def test_what_has_failed_with_other_software_is_tried_again_and_may_stay(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    site.store.save_record("tiny", UpdateRecord(failed=newer.version, reason="no such operator", software="older"))
    loader = device()
    assert state(loader) == "failed (no such operator)"
    on_trial(loader, newer)
    kill(loader)
    loader = device()
    assert (loader.version, state(loader)) == (newer.version, "trial")


def test_a_set_with_repeated_crashes_is_rolled_back_at_the_next_start(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    loader = device()
    on_trial(loader, newer)
    for _ in range(MAX_CRASHES):
        kill(loader)
        loader = device()
        assert (loader.version, state(loader)) == (newer.version, "trial")
    kill(loader)
    loader = device()
    assert loader.version == site.bundle.version
    assert "has ended 3 times" in state(loader)


def test_a_set_that_crashes_before_its_first_answer_is_rejected(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    loader = device()
    loader.announce(newer.data)
    for _ in range(MAX_CRASHES):
        deployed(loader, newer.version)
        kill(loader)
        loader = device()
        assert stored_version(loader) == site.bundle.version
    until(lambda: "has ended 3 times" in state(loader))
    assert loader.version == site.bundle.version


def test_orderly_stops_never_end_a_trial(device: Callable[..., LoaderWithUpdater], newer: Bundle) -> None:
    loader = device()
    on_trial(loader, newer)
    for _ in range(MAX_CRASHES + 2):
        loader.stop()
        loader = device()
        assert (loader.version, state(loader)) == (newer.version, "trial")


def test_a_hanging_set_is_gone_at_the_next_start(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    """The process is about to end itself."""
    loader = device()
    on_trial(loader, newer)
    assert loader.updater is not None
    loader.updater.abandon("a model hangs")
    kill(loader)
    loader = device()
    assert (loader.version, state(loader)) == (site.bundle.version, "failed (a model hangs)")


def test_a_newer_set_may_take_over_from_one_on_trial_and_the_last_proven_one_stays(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle, tmp_path: Path
) -> None:
    third = Bundle(tiny_bundle(tmp_path / "third", seed=2))
    site.server.files |= BlobServer(third).files
    loader = device()
    on_trial(loader, newer)
    on_trial(loader, third)
    assert site.store.previous("tiny") == site.bundle.data
    assert loader.on_failure(third.version, "it fails")
    deployed(loader, site.bundle.version)
    until(lambda: site.store.current() == site.bundle.data)


def test_a_catalogue_that_returns_to_the_current_set_ends_the_update(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    loader = device()
    site.link.connected.clear()
    loader.announce(newer.data)
    until(lambda: state(loader).startswith("pending") and site.store.candidate() == newer.data)
    loader.announce(site.bundle.data)
    until(lambda: site.store.candidate() is None)
    site.link.connected.set()
    assert loader.version == site.bundle.version


def test_a_set_that_the_catalogue_takes_back_again_and_again_has_not_ended_the_process(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    loader = device()
    deployed(loader, site.bundle.version)
    for _ in range(MAX_CRASHES + 2):
        loader.announce(newer.data)
        deployed(loader, newer.version)
        loader.announce(site.bundle.data)
        deployed(loader, site.bundle.version)
        until(lambda: state(loader) == "committed")
    on_trial(loader, newer)


def test_the_status_is_the_current_sets_once_the_catalogue_no_longer_offers_what_has_failed(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    loader = device()
    loader.announce(newer.data)
    deployed(loader, newer.version)
    loader.on_failure(newer.version, "it hangs")
    until(lambda: state(loader) == "failed (it hangs)")
    loader.announce(site.bundle.data)
    until(lambda: state(loader) == "committed")


def test_sets_that_fail_leave_no_files_behind(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle, tmp_path: Path
) -> None:
    def probe(manifest: Manifest, _names: Iterable[str], _files: dict[str, Path]) -> None:
        if manifest != site.bundle.manifest:
            raise ProbeError("garbage")

    loader = device(probe)
    saved = {path.name for path in (tmp_path / "store/blobs").iterdir()}
    for seed in (1, 2, 3):
        bad = newer if seed == 1 else Bundle(tiny_bundle(tmp_path / f"bad{seed}", seed=seed))
        site.server.files |= BlobServer(bad).files
        loader.announce(bad.data)
        until(lambda bad=bad: site.store.record("tiny").failed == bad.version)
    until(lambda: loader.updater is not None and loader.updater._candidate is None)
    assert {path.name for path in (tmp_path / "store/blobs").iterdir()} == saved


def test_a_killed_probe_is_repeated(device: Callable[..., LoaderWithUpdater], newer: Bundle) -> None:
    ended = [2]

    def probe(manifest: Manifest, _names: Iterable[str], _files: dict[str, Path]) -> None:
        if manifest == newer.manifest and ended[0]:
            ended[0] -= 1
            raise ProbeAborted("base: the process that tried it was ended (SIGKILL)")

    loader = device(probe)
    loader.announce(newer.data)
    deployed(loader, newer.version)
    assert ended == [0]


def test_a_probe_that_is_always_killed_is_rejected(device: Callable[..., LoaderWithUpdater], newer: Bundle) -> None:
    def probe(manifest: Manifest, _names: Iterable[str], _files: dict[str, Path]) -> None:
        if manifest == newer.manifest:
            raise ProbeAborted("base: the process that tried it was ended (SIGKILL)")

    loader = device(probe)
    loader.announce(newer.data)
    until(lambda: state(loader).startswith("failed (base") and "tried 5 times" in state(loader))


@pytest.mark.parametrize("damage", ["manifest", "base"])
def test_where_the_set_on_trial_is_damaged_the_one_before_is_begun_with(
    damage: str, device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle, tmp_path: Path
) -> None:
    loader = device()
    on_trial(loader, newer)
    kill(loader)
    base = newer.manifest.models["base"].sha256
    path = tmp_path / "store" / ("catalogue/tiny.json" if damage == "manifest" else f"blobs/{base}")
    path.write_bytes(b"")
    loader = device()
    deployed(loader, site.bundle.version)
    assert (site.store.current(), site.store.record("tiny").failed) == (site.bundle.data, "")


def test_a_model_that_is_to_see_other_pictures_is_probed_again_though_its_file_is_the_same(
    device: Callable[..., LoaderWithUpdater], site: Site, tmp_path: Path
) -> None:
    probed: list[str] = []

    def probe(_manifest: Manifest, names: Iterable[str], _files: dict[str, Path]) -> None:
        probed.extend(names)

    directory = tmp_path / "other"
    shutil.copytree(site.bundle.directory, directory)

    def darker(manifest: dict[str, Any]) -> None:
        manifest["models"]["base"]["input"]["mean"] = [0, 0, 0]

    loader = device(probe)
    for number, data in enumerate((site.bundle.data + b" ", edited(directory, darker)), 1):
        loader.announce(data)
        deployed(loader, digest(data))
        loader.on_answer(digest(data))
        until(lambda data=data: stored_version(loader) == digest(data))
        assert probed == ["base"] * number


def test_a_file_with_a_wrong_digest_is_tried_several_times_and_rejected(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle
) -> None:
    def spoil(_: BlobRequest, chunk: Chunk) -> Chunk:
        return Chunk(chunk.offset, chunk.total, bytes(len(chunk.data)))

    site.server.spoil = spoil
    loader = device()
    loader.announce(newer.data)
    until(lambda: "another digest" in state(loader) and state(loader).startswith("failed"))
    assert [request.offset for request in site.server.asked].count(0) == module.MAX_ATTEMPTS
    assert loader.version == site.bundle.version


def test_a_file_larger_than_the_disk_is_not_begun(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle, tmp_path: Path
) -> None:
    directory = tmp_path / "large"
    shutil.copytree(newer.directory, directory)
    large = edited(directory, lambda manifest: manifest["models"]["base"].update(bytes=2**40, sha256="0" * 64))
    loader = device()
    loader.announce(large)
    until(lambda: "MB left" in state(loader))
    assert state(loader).startswith("pending")
    assert site.server.asked == []
    assert loader.version == site.bundle.version


def test_room_on_the_disk_that_comes_later_lets_the_update_go_on(
    device: Callable[..., LoaderWithUpdater], newer: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [RESERVED_BYTES]
    monkeypatch.setattr(Store, "free_bytes", lambda _: room[0])
    loader = device()
    loader.announce(newer.data)
    until(lambda: state(loader).startswith("pending ("))
    room[0] = RESERVED_BYTES * 2
    deployed(loader, newer.version)


def test_a_read_only_store_continues_with_its_set(
    device: Callable[..., LoaderWithUpdater], site: Site, newer: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    loader = device()
    deployed(loader, site.bundle.version)
    monkeypatch.setattr(atomic_files, "flush", full)
    loader.announce(newer.data)
    until(lambda: "No space left" in state(loader))
    assert loader.version == site.bundle.version
    kill(loader)
    assert device().version == site.bundle.version


def test_an_unexpected_error_ends_neither_the_thread_nor_the_set(
    device: Callable[..., LoaderWithUpdater],
    site: Site,
    newer: Bundle,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def probe(manifest: Manifest, _names: Iterable[str], _files: dict[str, Path]) -> None:
        if manifest == newer.manifest:
            raise ZeroDivisionError

    before = failures().get("updater", 0)
    loader = device(probe)
    loader.announce(newer.data)
    until(lambda: state(loader).startswith("failed"))
    assert "ZeroDivisionError" in caplog.text
    third = Bundle(tiny_bundle(tmp_path / "third", seed=2))
    site.server.files |= BlobServer(third).files
    loader.announce(third.data)
    deployed(loader, third.version)
    assert failures()["updater"] == before + 1


class _Crash(BaseException):
    """The process ends here."""


def _crashing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """End the process before change number ``after`` of a file."""
    left = [after]
    for owner, name in ((atomic_files, "replace"), (Path, "unlink"), (Path, "write_bytes")):
        real = getattr(owner, name)

        def change(*given: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise _Crash
            return real(*given, **named)

        monkeypatch.setattr(owner, name, change)


@pytest.mark.parametrize("end", ["commit", "failure"])
def test_wherever_an_update_is_cut_off_the_store_holds_a_whole_set(
    end: str, bundle: Bundle, newer: Bundle, tmp_path: Path
) -> None:
    """Every change of a file in turn is the one before which the process ends."""
    after, crashed = 0, True
    while crashed:
        directory = tmp_path / str(after)
        store = install_current(install_files(Store(directory), bundle), bundle.data)
        name, crashed = bundle.manifest.name, False
        with pytest.MonkeyPatch.context() as patch:
            _crashing(patch, after)
            try:
                store.stage(newer.data, newer.manifest)
                install_files(store, newer)
                store.promote(name, newer.version)
                if end == "commit":
                    store.commit(name)
                    store.collect_garbage()
                else:
                    store.roll_back(name, "it fails", "software")
            except _Crash:
                crashed = True
        again = LoaderWithUpdater(Store(directory), None, "")
        assert again.updater is not None
        again.updater.restore()
        assert again.version in (bundle.version, newer.version)
        own = bundle if again.version == bundle.version else newer
        assert all(store.path(model.sha256) for model in own.manifest.models.values()), after
        after += 1
    assert after > 12
    assert (again.version == newer.version) == (end == "commit")


def test_a_roll_back_is_refused_where_there_is_no_set_to_go_back_to(bundle: Bundle, tmp_path: Path) -> None:
    store = install_current(Store(tmp_path), bundle.data)
    assert not store.roll_back(bundle.manifest.name, "it fails", "software")
    assert store.current() == bundle.data


def test_two_agents_cannot_use_one_store(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.lock()
    with pytest.raises(StoreError, match=r"in use by process \d+; stop that agent"):
        Store(tmp_path).lock()


def test_garbage_collection_keeps_files_of_the_candidate(bundle: Bundle, newer: Bundle, tmp_path: Path) -> None:
    store = install_current(install_files(Store(tmp_path), bundle), bundle.data)
    store.stage(newer.data, newer.manifest)
    base = newer.manifest.models["base"].sha256
    store.append(base, b"half of it")
    assert store.collect_garbage() == 0
    assert store.offset(base) == 10
    assert file_digest(newer.path("base")) == base


def test_an_updater_without_a_store_to_restore_waits_for_the_catalogue(tmp_path: Path) -> None:
    loader = LoaderWithUpdater(Store(tmp_path), None, "")
    updater: Updater | None = loader.updater
    assert updater is not None
    updater.restore()
    assert (loader.target, updater.status) == (None, "")
