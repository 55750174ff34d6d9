"""The probe process: no fault of a model reaches the process that answers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from cachenet.edge_agent.updates import probe as module
from cachenet.edge_agent.updates.probe import ProbeError, ProbeRequest, probe
from cachenet.shared.bundle.manifest import Bundle
from tests import faulty
from tests.bundles import tiny_bundle
from tests.faulty import with_golden, with_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tiny_bundle(tmp_path_factory.mktemp("bundle"))
    return with_golden(directory)


def request(bundle: Bundle, *models: str, memory: int = 0) -> ProbeRequest:
    files = {sha256: os.fsencode(bundle.directory / file) for file, sha256 in bundle.manifest.files().items()}
    return ProbeRequest(bundle.data, models or ("base",), files, provider="cpu", memory=memory)


def test_all_models_of_a_good_bundle_pass(bundle: Bundle) -> None:
    probe(request(bundle, *bundle.manifest.models))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("garbage", "not a model ONNX Runtime can load"),
        ("nan", "scores that are not finite"),
        ("failing", "inference failed"),
        ("looping", "takes more than 2 s"),
        ("bomb", "base: inference failed .*alloc"),
        ("other-labels", "of 4 golden frames with another label"),
    ],
)
def test_a_model_with_a_fault_is_refused_with_the_reason(
    kind: str, reason: str, bundle: Bundle, tmp_path: Path
) -> None:
    faulty_bundle = with_model(bundle, tmp_path / "faulty", faulty.KINDS[kind]())
    with pytest.raises(ProbeError, match=reason):
        probe(request(faulty_bundle), seconds=2.0 if kind == "looping" else 60.0)


def test_a_process_that_takes_more_memory_than_it_may_is_ended(bundle: Bundle) -> None:
    """The parent enforces the limit, because GPU drivers fail under a limit of the address space."""
    with pytest.raises(ProbeError, match="takes more than 1 MB of memory"):
        probe(ProbeRequest(bundle.data, ("base",), {}, memory=1_000_000, provider="auto"))


def test_a_crash_of_the_runtime_is_the_probes_and_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMMAND", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ProbeError, match=r"base: crashes the runtime \(SIGSEGV\)"):
        probe(request(bundle))


def test_stop_ends_the_wait(bundle: Bundle, tmp_path: Path) -> None:
    looping = with_model(bundle, tmp_path / "faulty", faulty.looping())
    with pytest.raises(ProbeError, match="the program ends"):
        probe(request(looping), stopped=lambda: True)


def test_the_probe_ends_with_the_process_that_began_it(bundle: Bundle, tmp_path: Path) -> None:
    """However that ends: nothing is left behind that takes a device's processor for a minute."""
    looping = with_model(bundle, tmp_path / "faulty", faulty.looping())
    (tmp_path / "request").write_bytes(msgspec.json.encode(request(looping)))
    agent = subprocess.Popen(
        [
            *(module.sys.executable, "-c"),
            "import sys, msgspec, pathlib; from cachenet.edge_agent.updates.probe import ProbeRequest, probe; "
            "probe(msgspec.json.decode(pathlib.Path(sys.argv[1]).read_bytes(), type=ProbeRequest))",
            str(tmp_path / "request"),
        ]
    )
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    deadline = time.monotonic() + 20
    while not (pids := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.02)
    [child] = pids
    while b"prctl" not in (cmdline := Path(f"/proc/{child}/cmdline").read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert b"cachenet.edge_agent.updates.probe" in cmdline
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(pid: str) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_directory_with_packages_of_the_same_names_does_not_confuse_the_probe(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("shared", "edge_agent", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    probe(request(bundle))
