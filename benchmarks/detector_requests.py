"""Requests of a detector: what their compression costs, and how late replies come over a link.

    python -m benchmarks.detector_requests pictures --video vtest.avi --full nanodet.onnx
    python -m benchmarks.detector_requests posting --video vtest.avi --full nanodet.onnx --link 3g --fps 30

``pictures``: the full detector's boxes in compressed wire pictures against its boxes in the uncompressed ones, for
qualities of WebP, and of JPEG with and without subsampling of the colours: kilobytes, milliseconds to encode, F1 at IoU
0.5 of all labels and of the commonest one, and the mean object error of a frame.

``posting``: a device posts every frame that its client of the full model allows, over an emulated link, to a server
that takes a fixed time for each. Measures: replies a second, and their age when the next frame comes, milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cv2
import numpy as np

from cachenet.edge_agent import remote
from cachenet.edge_agent.remote import POSTED, CloudClient
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.shared.bundle.manifest import FORMAT, Manifest, Model
from cachenet.shared.cascade.detect.detections import counts, object_errors, pooled_f1
from cachenet.shared.cascade.detect.types import SceneFrame, SceneMiss, ScenePrediction
from cachenet.shared.inference.image import Picture, encode, wire_picture
from cachenet.shared.media.signature import sign
from cachenet.shared.media.video import Video
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from cachenet.simulator.world.processes import Processes, free_port, is_listening

#: Compared qualities.
QUALITIES = (50, 60, 70, 75, 80, 85, 90, 92, 95, 98)
#: Subsampling of the colours by name.
SAMPLINGS = {"4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444}
#: Time to wait for the last replies, seconds.
_LAST_S = 3.0
_TIMEOUT_S = 60.0


def read(video: Path, frames: range) -> list[Picture]:
    """Pictures of these frames of a video."""
    found = itertools.islice(Video(video).frames(), frames.start, frames.stop, frames.step)
    return [frame.picture for frame in found]


def pictures(model: DetectorModel, frames: list[Picture]) -> Iterator[dict[str, Any]]:
    """A row for each quality and sampling, as the command prints it; the first row is of ``encode``."""
    detect = model.detector()
    sent = [wire_picture(frame, model.input) for frame in frames]
    reference = [detect(picture) for picture in sent]
    label = Counter(np.concatenate([found.labels for found in reference]).tolist()).most_common(1)[0][0]
    encoders: dict[str, Callable[[Picture], bytes]] = {"as sent": lambda picture: encode(picture)[1]}
    for (name, factor), quality in itertools.product(SAMPLINGS.items(), QUALITIES):
        flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
        encoders[f"JPEG {name} {quality}"] = partial(_encoded, ".jpg", flags)
    encoders |= {f"WebP {one}": partial(_encoded, ".webp", [cv2.IMWRITE_WEBP_QUALITY, one]) for one in QUALITIES}
    for name, encoder in encoders.items():
        size, spent, every, commonest = 0, 0.0, [], []
        for picture, expected in zip(sent, reference, strict=True):
            begun = time.perf_counter()
            data = encoder(picture)
            spent += time.perf_counter() - begun
            received = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            found = detect(received)  # type: ignore[arg-type]
            size += len(data)
            every.append(counts(found, expected))
            commonest.append(counts(found.take(found.labels == label), expected.take(expected.labels == label)))
        yield {
            "encoding": name,
            "kb": round(size / len(sent) / 1000, 1),
            "encode_ms": round(1000 * spent / len(sent), 2),
            "f1": round(pooled_f1(np.array(every)), 4),
            f"f1_{model.labels[label]}": round(pooled_f1(np.array(commonest)), 4),
            "object_error": round(float(object_errors(np.array(every)).mean()), 4),
        }


def _encoded(suffix: str, flags: list[int], picture: Picture) -> bytes:
    return cv2.imencode(suffix, picture, flags)[1].tobytes()


def manifest_of(model: DetectorModel) -> Manifest:
    """The manifest of a bundle with ``model`` as full model, without files."""
    full = Model("full", "full/1/model.onnx", 1, "0" * 64, model.input, 1.0, 1, 1, 1.0, (), decoder=model.decoder)
    return Manifest(FORMAT, "requests", "detection", model.labels, {"full": full}, {})


class SleepingServer:
    """A server that takes a fixed time for each request, one after the other, and finds nothing."""

    def __init__(self, port: int, milliseconds: float) -> None:
        self._requests: SimpleQueue[Message] = SimpleQueue()
        self._seconds = milliseconds / 1000
        topics = [(topic, 1) for topic in protocol.SERVER_TOPICS]
        self._link = MqttConnection(Address("127.0.0.1", port), "cloud", topics, self._requests.put)
        self._link.start()
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        answer = protocol.encode(protocol.DetectionAnswer(b"", b"", b"", "0" * 64, None, protocol.Timing(0, 0, 0, 1)))
        while True:
            request = self._requests.get()
            time.sleep(self._seconds)
            device, _ = protocol.device_of(request.topic)
            self._link.publish(protocol.topic(device, "answer"), answer, correlation=request.correlation)


def posting(
    model: DetectorModel, frames: list[Picture], link: str, server_ms: float, fps: float, seconds: float
) -> dict[str, Any]:
    """The measures as the command prints them. The frames repeat."""
    with tempfile.TemporaryDirectory() as scratch, Processes(Path(scratch)) as processes:
        ports = free_port(), free_port()
        broker = processes.start("broker", "cachenet.cloud_server", "broker", "--port", str(ports[0]))
        processes.wait(broker, lambda: is_listening(ports[0]), _TIMEOUT_S, "listening")
        SleepingServer(ports[0], server_ms)
        ends = ("--listen", str(ports[1]), "--to", f"127.0.0.1:{ports[0]}", "--profile", link)
        emulator = processes.start("link", "cachenet.simulator", "link", *ends)
        processes.wait(emulator, lambda: b"listening" in emulator.log.read_bytes(), _TIMEOUT_S, "listening")

        def receive(message: Message) -> None:
            cloud.receive(message)

        answers = (protocol.topic("cam", "answer"), 0)
        device = MqttConnection(Address("127.0.0.1", ports[1]), "cachenet-cam", [answers], receive)
        cloud = CloudClient(device, "cam", manifest_of(model), time.monotonic)
        device.start()
        if not device.connected.wait(_TIMEOUT_S):
            raise SystemExit(f"no connection: {device.error}")
        outcomes, ages, number = Counter[str](), list[float](), round(seconds * fps)
        began = time.monotonic()
        at: list[float] = []
        for index in range(number + round(_LAST_S * fps)):
            time.sleep(max(0.0, began + index / fps - time.monotonic()))
            at.append(time.monotonic())
            ages += [at[-1] - at[reply.frame] for reply in cloud.late()]
            if index < number:
                picture = frames[index % len(frames)]
                frame = SceneFrame(index, None, sign(picture), np.zeros((1, 1), bool))
                miss = SceneMiss(frame, at[-1], at[-1] + 1.0, ScenePrediction((), 0.0, "frames", ""), "")
                outcomes[cloud.post(miss, lambda picture=picture: picture).error] += 1  # type: ignore[misc]
        device.stop()
    return {
        "link": link,
        "fps": fps,
        "at_once": remote._MAX_POSTED_DETECTOR,
        "posted": outcomes[POSTED],
        "not_posted": {reason: count for reason, count in outcomes.items() if reason != POSTED},
        "replies_s": round(len(ages) / seconds, 1),
        "age_ms": {f"p{share}": round(1000 * float(np.percentile(ages, share))) for share in (10, 50, 90)},
        "kb": round(cloud.bytes_up / max(1, outcomes[POSTED]) / 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pictures", "posting"))
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--full", type=Path, required=True, help="ONNX file of the full detector")
    parser.add_argument("--frames", default="0:381", help="frames START:STOP[:STEP] of the video")
    parser.add_argument("--link", default="lte", help="link of posting")
    parser.add_argument("--server-ms", type=float, default=25.0, help="time of the server for a request of posting")
    parser.add_argument(
        "--at-once", type=int, default=remote._MAX_POSTED_DETECTOR, help="most requests under way of posting"
    )
    parser.add_argument("--fps", type=float, default=10.0, help="frames a second of posting")
    parser.add_argument("--seconds", type=float, default=20.0, help="time of posting")
    options = parser.parse_args()
    remote._MAX_POSTED_DETECTOR = options.at_once
    model = load_detector(options.full)
    frames = read(options.video, range(*(int(part) for part in options.frames.split(":"))))
    if options.what == "posting":
        print(json.dumps(posting(model, frames, options.link, options.server_ms, options.fps, options.seconds)))
        return
    for row in pictures(model, frames):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
