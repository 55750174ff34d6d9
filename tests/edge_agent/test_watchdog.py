"""When a process counts as one in which a model hangs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cachenet.edge_agent.doctor import watchdog as module
from cachenet.edge_agent.doctor.watchdog import Watchdog
from cachenet.edge_agent.settings import Settings


class _Camera:
    title = "gate"
    settings = Settings(deadline_ms=1000)
    deciding: int | None = None


@pytest.fixture
def camera() -> _Camera:
    return _Camera()


def watch(camera: _Camera, hanging_model: str = "") -> Watchdog:
    return Watchdog(
        lambda: [cast(Any, camera)],
        cast(Any, SimpleNamespace(hanging_model=hanging_model)),
        lambda _: None,
        lambda _: None,
    )


def looks(watchdog: Watchdog, seconds: int) -> str:
    return next(filter(None, (watchdog.check() for _ in range(seconds))), "")


def test_a_frame_that_is_decided_for_over_a_minute_means_that_a_model_hangs(camera: _Camera) -> None:
    watchdog = watch(camera)
    camera.deciding = 7
    assert looks(watchdog, 62) == ""
    assert "gate has been deciding frame 7 for 62 s" in looks(watchdog, 1)


def test_progress_and_a_camera_without_frames_do_not_hang(camera: _Camera) -> None:
    watchdog = watch(camera)
    assert looks(watchdog, 1000) == ""
    for camera.deciding in range(20):
        assert looks(watchdog, 30) == ""


def test_a_slowed_down_device_has_as_much_more_time(camera: _Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "settings", Settings(slowdown=3.0), raising=False)
    watchdog = watch(camera)
    camera.deciding = 7
    assert looks(watchdog, 180) == ""
    assert looks(watchdog, 5) != ""


def test_a_model_that_hangs_while_it_is_loaded_is_named(camera: _Camera) -> None:
    assert "animals hangs while it is being loaded" in watch(camera, "animals").check()


def test_the_updater_is_notified_before_the_process_ends(camera: _Camera) -> None:
    logged: list[str] = []
    loader = cast(Any, SimpleNamespace(hanging_model="animals"))
    watchdog = Watchdog(
        lambda: [cast(Any, camera)], loader, lambda _: logged.append("abandon"), lambda _: logged.append("end")
    )
    watchdog._thread.stopping.wait = lambda _: False  # type: ignore[method-assign]
    watchdog._step()
    assert logged == ["abandon", "end"]
    assert module.HANG_TIMEOUT_S == 60.0
