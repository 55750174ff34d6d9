"""The default number of threads."""

from __future__ import annotations

import os

import pytest

from cachenet.shared.command.threads import default_threads


@pytest.mark.parametrize(("text", "threads"), [("1", 1), (" 3 ", 3), ("4,2", 4), ("1000", 64)])
def test_omp_num_threads_is_the_default(text: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert default_threads() == threads


@pytest.mark.parametrize("text", [None, "", "0", "-1", "many", "²"])
def test_without_a_number_it_is_one_for_each_processor(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if text is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert default_threads() == 5
