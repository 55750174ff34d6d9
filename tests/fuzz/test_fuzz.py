"""Bytes from the network cannot crash, stall or fill a decoder: the inputs of earlier findings, and new ones."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import decoders
from tests.fuzz.__main__ import CORPUS, NAMES
from tests.fuzz.decoders import DECODERS, Decoder, OutOfBounds, check

ROOT = Path(__file__).parents[2]
#: Inputs of a short run for each decoder.
_RUNS = 500


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", NAMES)
def test_every_input_of_the_corpus_stays_within_the_bounds(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        check(DECODERS[name], path.read_bytes())


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 64 << 10


@pytest.mark.usefixtures("traced")
def test_an_undocumented_error_is_a_finding() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        check(Decoder(int, (KeyError,), 1 << 20, 0, 10), b"x")
    check(Decoder(int, (ValueError,), 1 << 20, 0, 10), b"x")


@pytest.mark.usefixtures("traced")
def test_memory_over_the_bound_is_a_finding() -> None:
    greedy = Decoder(lambda data: bytes(1000 * len(data)), (), 10_000, 900, 10)
    check(greedy, b"x" * 10)
    with pytest.raises(OutOfBounds, match="bytes of memory"):
        check(greedy, b"x" * 1000)


@pytest.mark.usefixtures("traced")
def test_time_over_the_bound_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "MAX_SECONDS", 0.0)
    with pytest.raises(OutOfBounds, match=r"take .* s"):
        check(Decoder(lambda _: sum(range(100_000)), (), 1 << 20, 0, 10), b"")


@pytest.mark.slow
def test_a_short_run_of_the_fuzzer_finds_nothing() -> None:
    pytest.importorskip("atheris")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", "--decoder", name, "--runs", str(_RUNS)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in NAMES
    ]
    for name, process in zip(NAMES, processes, strict=True):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert f"{name}: {_RUNS} inputs" in output and "0 findings" in output
