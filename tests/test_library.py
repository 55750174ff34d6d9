"""``import cachenet``: the public names, on bundles of the zoo and against a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import cachenet
from cachenet.edge_agent.cli import app
from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.library import _Lines, _with_arguments
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.cascade import Cascade
from tests.broker import Mosquitto, mosquitto
from tests.bundles import LABELS, tiny_bundle
from tests.e2e.agents import picture
from tests.e2e.servers import ServerProcess
from tests.edge_agent.frames import detected_frame, tracked

__all__ = ["mosquitto"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "library.md"
#: What an answer and a line of ``edge-agent run --output`` share and no clock decides.
SHARED = ("frame", "confidence", "risk", "level", "model", "reason")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures: ten images of CIFAR-10, each three times."""
    directory = tmp_path_factory.mktemp("pictures")
    sheets = sorted((zoo.DIRECTORY / "cifar10-sample").glob("*.png"))
    for number in range(30):
        assert cv2.imwrite(str(directory / f"{number:02}.png"), cv2.imread(str(sheets[number // 3]))[:32, :32])
    return directory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mosquitto: Mosquitto) -> Iterator[str]:
    """The address of a broker with a server whose bundle asks the server about most frames."""
    directory = tmp_path_factory.mktemp("server")
    bundle = tiny_bundle(tmp_path_factory.mktemp("served"), risk=1e-6)
    process = ServerProcess(directory, "--bundle", str(bundle), "--broker", mosquitto.url)
    process.wait_for("connected to")
    yield mosquitto.url
    process.close()


def printed(pictures: Path, *flags: str) -> list[dict[str, Any]]:
    """The lines that ``edge-agent run`` prints."""
    done = CliRunner().invoke(app, ["run", str(pictures), "--output", "-", "--no-view", *flags])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def as_printed(answer: cachenet.Answer) -> dict[str, Any]:
    line = {name: getattr(answer, name) for name in SHARED if name != "reason" or answer.reason}
    return line | {"label": answer.label or "unknown"}


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name in (*SHARED, "label")}


@pytest.mark.parametrize(("name", "levels"), [("cifar10", "frames,base"), ("tiny", "frames,base,full")])
def test_answers_equal_those_of_the_command(name: str, levels: str, pictures: Path, bundle: Bundle) -> None:
    where = str(bundle.directory) if name == "tiny" else name
    lines = printed(pictures, "--bundle", where, "--set", f"levels={levels}")
    with cachenet.load(where, levels=levels.split(",")) as device:
        answers = [device(cv2.imread(str(file))) for file in sorted(pictures.iterdir())]
        assert device.summary()["frames"] == 30
    assert [as_printed(answer) for answer in answers] == list(map(without_times, lines))
    assert name == "cifar10" or len({answer.level for answer in answers}) > 1


def test_the_full_model_of_the_zoo_answers_misses_without_a_network(pictures: Path) -> None:
    with cachenet.load("cifar10") as device:
        answers = [device(cv2.imread(str(file))) for file in sorted(pictures.iterdir())]
        assert device.labels == LABELS
    assert "full" in {answer.level for answer in answers}
    for answer in answers:
        assert answer.label in (*LABELS, None)
        assert 0 <= answer.risk <= 1
        assert 0 <= answer.confidence <= 1
        assert answer.latency_ms > 0
        assert abs(time.time() - answer.time) < 600
    right = sum(answer.label == LABELS[answer.frame // 3] for answer in answers)
    assert right >= 18


def test_a_bundle_may_be_a_path_and_settings_have_their_own_types(bundle: Bundle) -> None:
    with cachenet.load(bundle.directory, max_disagreement=0.1, memory_budget=None, region="0,0,1,0.5") as device:
        assert device(picture(0)).frame == 0


def test_the_layout_of_a_frame_in_memory_changes_nothing_and_the_frame_is_not_changed(bundle: Bundle) -> None:
    frame = picture(3)
    rgb = np.ascontiguousarray(frame[:, :, ::-1])
    given = (frame, rgb[:, :, ::-1], np.asfortranarray(frame), np.ascontiguousarray(frame[::-1])[::-1])
    found = set()
    for layout in given:
        layout.setflags(write=False)
        with cachenet.load(bundle.directory, levels=("base",)) as device:
            answer = device(layout)
            found.add((answer.label, answer.confidence, answer.level))
        assert (layout == picture(3)).all()
    assert len(found) == 1


def test_the_answer_of_a_detector_has_objects_and_no_label_and_that_of_a_classifier_the_reverse(bundle: Bundle) -> None:
    lines = _Lines()
    for objects in ([tracked(3, (0.1, 0.2, 0.3, 0.4), risk=0.25)], []):
        lines.write(detected_frame(objects).line)
        assert lines.answer is not None and lines.answer.label is None
        expected = [cachenet.Object(3, "person", 0.75, (0.1, 0.2, 0.3, 0.4), 0.25)] * len(objects)
        assert list(lines.answer.objects or ()) == expected and lines.answer.objects is not None
    with cachenet.load(bundle.directory) as device:
        assert device(picture(0)).objects is None
    with pytest.raises(cachenet.UserError, match="zone: no setting of a device"):
        cachenet.load(bundle.directory, zone=())


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (2000, 3, 3)])
def test_a_frame_may_have_any_size(shape: tuple[int, ...], bundle: Bundle) -> None:
    with cachenet.load(bundle.directory) as device:
        assert device(np.zeros(shape, np.uint8)).frame == 0


@pytest.mark.parametrize(
    "frame",
    [None, "a.png", [[[0, 0, 0]]], np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)),
     np.zeros((0, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)],
)  # fmt: skip
def test_what_is_no_frame_is_refused_and_the_next_frame_is_answered(frame: Any, bundle: Bundle) -> None:
    with cachenet.load(bundle.directory) as device:
        with pytest.raises(cachenet.UserError, match=r"BGR .* uint8"):
            device(frame)
        assert device(picture(0)).frame == 0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"bundle": "none"}, "none is no bundle"),
        ({"max_disagreement": 2}, "max_disagreement: Expected `float`"),
        ({"max_disagreement": "much"}, "max_disagreement: Expected `float`"),
        ({"levels": ("cache",)}, "levels"),
        ({"levels": "base,cache"}, "levels: Invalid enum value 'cache'"),
        ({"levels": ("cloud",)}, "no level can answer: levels must include base, or cloud with a broker"),
        ({"levels": ("full",)}, "full only helps base, and base=full with levels=base runs it alone"),
        ({"bundle": None}, "nothing to answer with: give broker mqtt://host, or bundle (such as cifar10)"),
        ({"max_disagrement": 0.1}, "max_disagrement: no setting of a device; did you mean max_disagreement?"),
        ({"max-disagreement": 0.1}, "max-disagreement: no setting of a device; did you mean max_disagreement?"),
        ({"source": "camera:0"}, "source: no setting of a device; the program itself reads frames"),
        ({"frames": 3}, "frames: no setting of a device"),
        ({"gate": "x"}, "gate no longer exists"),
        ({"trusted_key": "x"}, "trusted_key no longer exists: sign the bundle again, and use trusted_root"),
        ({"memory_budget": "much"}, "150MB"),
        ({"memory_budget": "1MB"}, "memory budget 1MB"),
        ({"region": "0.5,0,0.6,1"}, "no region"),
        ({"provider": "cuda"}, "provider"),
        ({"base": "none"}, "full, base, vehicles"),
        ({"device": "a/b"}, "no device name"),
        ({"results": True}, "need a broker"),
        ({"trusted_root": "/nowhere/root.json"}, "/nowhere/root.json: No such file"),
        ({"metrics": "eighty"}, "no port"),
        ({"misses": "/dev/null/x"}, "Not a directory"),
        ({"broker": "mqtts://x", "ca": "/nowhere/ca"}, "/nowhere/ca: No such file"),
        ({"broker": "http://x"}, "mqtt://host:port"),
    ],
)
def test_a_bad_argument_is_a_user_error_of_one_line(settings: dict[str, Any], why: str, bundle: Bundle) -> None:
    with pytest.raises(cachenet.UserError) as caught:
        cachenet.load(**{"bundle": bundle.directory} | settings)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)


def test_levels_may_be_text_as_elsewhere(bundle: Bundle) -> None:
    for levels, expected in (("base", ("base",)), ("frames, base", ("frames", "base"))):
        with cachenet.load(bundle.directory, levels=levels) as device:
            assert device._camera.settings.levels == expected
            assert device(picture(0)).level in ("base", "fallback")


def test_messages_name_arguments_instead_of_flags_and_keep_paths(tmp_path: Path) -> None:
    file = tmp_path / "--store"
    file.write_text("")
    with pytest.raises(cachenet.UserError) as caught:
        cachenet.connect("mqtt://127.0.0.1:1", store=file)
    assert str(caught.value).endswith("choose another with store")
    assert str(file) in str(caught.value)
    flags = "set --set early_exits=off, --max-disagreement or --system-site-packages"
    assert _with_arguments(flags) == "set early_exits=off, max_disagreement or --system-site-packages"


def test_a_frame_that_raises_is_counted_as_an_error_and_the_next_is_answered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cachenet.load(bundle.directory) as device:
        device(picture(0))
        with monkeypatch.context() as patch:
            patch.setattr(Cascade, "complete", lambda *_: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                device(picture(1))
        assert device._camera.deciding is None
        assert device.summary()["errors"] == 1
        assert device(picture(2)).frame == 2
        assert device.summary()["frames"] == 2


def test_an_unusable_bundle_is_not_counted_as_a_failed_frame(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def unusable(*_: Any) -> None:
        raise DeploymentError("use --provider auto")

    with cachenet.load(bundle.directory) as device:
        monkeypatch.setattr(Cascade, "complete", unusable)
        with pytest.raises(cachenet.UserError, match=r"^use provider auto$"):
            device(picture(0))
        assert device.summary()["errors"] == 0


_INTERRUPTED = """
import signal, time, numpy, cachenet
from cachenet.edge_agent.camera import Camera

device = cachenet.load({bundle!r})
frame, step, outcomes = numpy.zeros((8, 8, 3), numpy.uint8), Camera.step, []

def slow(*arguments):
    end = time.monotonic() + 1
    while time.monotonic() < end and not outcomes:
        time.sleep(0.01)
    step(*arguments)

def interrupt(*_):
    outcomes.append(device.summary()["frames"])
    try:
        device(frame)
    except cachenet.UserError as error:
        outcomes.append(str(error))
    device.close()
    device.close()

Camera.step = slow
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.1)
print(device(frame).frame, outcomes)
try:
    device(frame)
except cachenet.UserError as error:
    print(error, device.summary()["frames"])
"""


def test_a_signal_handler_may_close_the_device_while_it_answers(bundle: Bundle) -> None:
    first, second = python(_INTERRUPTED.format(bundle=str(bundle.directory))).splitlines()
    assert first == "0 [0, 'this device is busy with the call that the signal handler interrupts']"
    assert second == "this device is closed; load or connect another 1"


def test_a_closed_device_answers_no_more_and_can_be_closed_again(bundle: Bundle) -> None:
    device = cachenet.load(bundle.directory)
    device(picture(0))
    device.close()
    device.close()
    with pytest.raises(cachenet.UserError, match="closed"):
        device(picture(1))
    assert device.summary()["frames"] == 1


def test_calls_from_several_threads_are_answered_one_after_another(bundle: Bundle) -> None:
    with cachenet.load(bundle.directory) as device, ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(device, map(picture, range(40))))
    assert sorted(answer.frame for answer in answers) == list(range(40))


def test_a_program_that_forgets_to_close_its_device_ends(bundle: Bundle) -> None:
    program = f"import cachenet, numpy; device = cachenet.load({str(bundle.directory)!r})\n"
    python(program + "print(device(numpy.zeros((8, 8, 3), numpy.uint8)).frame)")


def python(program: str, place: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_loads_nothing_and_a_device_nothing_heavy() -> None:
    loaded = set(python("import sys, cachenet; print(*sys.modules)").split())
    assert not loaded & {"numpy", "msgspec", "cv2", "onnxruntime", "typer", "cachenet.shared"}
    loaded = set(python("import sys, cachenet; cachenet.load; print(*sys.modules)").split())
    assert not loaded & {"torch", "onnx", "matplotlib", "iotcore", "cachenet.simulator", "cachenet.models"}


def test_there_are_few_names_and_the_page_describes_each() -> None:
    assert len(cachenet.__all__) < 25
    assert set(cachenet.__all__) <= set(dir(cachenet))
    page = PAGE.read_text("utf-8")
    for name in cachenet.__all__:
        assert getattr(cachenet, name)
        assert f"`cachenet.{name}`" in page
    for kind in (cachenet.Device, cachenet.Answer, cachenet.Object):
        for name in filter(lambda name: not name.startswith("_"), vars(kind)):
            assert re.search(rf"`(device\.)?{name}(\(\))?`", page), f"docs/library.md does not describe {name}"
    with pytest.raises(AttributeError, match="open"):
        cachenet.open  # noqa: B018


def test_a_connected_device_fetches_its_models_and_the_server_answers_misses(server: str, tmp_path: Path) -> None:
    with cachenet.connect(server, device="one", store=tmp_path, deadline_ms=20_000) as device:
        answers = [device(picture(seed)) for seed in range(20)]
        assert device.labels == LABELS
        assert device.summary()["bytes_down"] > 0
    assert "cloud" in {answer.level for answer in answers}
    # The same program connects again, with models that are here already.
    with cachenet.connect(server, device="one", store=tmp_path) as device:
        device(picture(0))
        assert device.summary()["models_pulled"] == []


def test_a_device_with_models_in_its_store_answers_without_a_broker(server: str, tmp_path: Path) -> None:
    cachenet.connect(server, device="two", store=tmp_path).close()
    with cachenet.connect("mqtt://127.0.0.1:1", device="two", store=tmp_path, timeout_s=30) as device:
        assert device(picture(0)).level in ("base", "full", "fallback")


def test_answers_that_come_later_are_corrections(server: str, tmp_path: Path) -> None:
    with cachenet.connect(server, device="three", store=tmp_path, mode="async") as device:
        answers, corrections = {}, []
        deadline = time.monotonic() + 60
        while not corrections:
            assert time.monotonic() < deadline
            answer = device(picture(len(answers)))
            answers[answer.frame] = answer
            corrections = device.corrections()
        for correction in corrections:
            assert correction.label != answers[correction.frame].label
            assert correction.latency_ms == 0
        assert not set(corrections) & set(device.corrections())


def test_a_server_that_offers_nothing_in_time_is_a_user_error(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(cachenet.UserError, match=r"no model could be loaded within 0.5 s: .*127.0.0.1:1"):
        cachenet.connect("mqtt://127.0.0.1:1", store=tmp_path, timeout_s=0.5)
    assert time.monotonic() - begun < 30
    # The store is free again.
    with pytest.raises(cachenet.UserError, match="no model could be loaded"):
        cachenet.connect("mqtt://127.0.0.1:1", store=tmp_path, timeout_s=0.1)


def test_two_devices_do_not_share_a_store(server: str, tmp_path: Path) -> None:
    with (
        cachenet.connect(server, device="four", store=tmp_path),
        pytest.raises(cachenet.UserError, match="in use"),
    ):
        cachenet.connect(server, device="five", store=tmp_path)


_EXAMPLE = re.compile(r"(<!-- test -->\n)?```python\n(.*?)```", re.DOTALL)
EXAMPLES = [(found[1], found[2]) for found in _EXAMPLE.finditer(PAGE.read_text("utf-8"))]


@pytest.mark.parametrize(("mark", "example"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_page_runs(mark: str | None, example: str, server: str, tmp_path: Path) -> None:
    assert mark, "every example is tested"
    assert cv2.imwrite(str(tmp_path / "frame.png"), picture(0))
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 48))  # type: ignore[attr-defined]
    for seed in range(5):
        video.write(picture(seed))
    video.release()
    assert python(example.replace("mqtt://server.local", server), tmp_path).strip()
