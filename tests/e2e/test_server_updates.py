"""Submodels that a running server trains on what devices send."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from cachenet.cloud_server.finetune.request_history import MIN_FRAMES
from cachenet.models.data import sample
from cachenet.models.signing import KeyDirectory
from cachenet.shared.bundle.manifest import Bundle, parse
from cachenet.shared.bundle.trust import TrustedRoot
from cachenet.shared.inference.image import encode
from cachenet.shared.transport import protocol
from cachenet.shared.transport.protocol import Answer
from tests.broker import Mosquitto
from tests.e2e.servers import Device, ServerProcess, until
from tests.hampered import frogs_and_ships, hampered_bundle


def give_processor(server: int) -> None:
    """Let the training of a server compete for processors, which otherwise only gets what is idle, as root may."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            for thread in Path(f"/proc/{child}/task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)


def test_a_submodel_is_trained_for_what_a_device_sends_and_recommended_to_it(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    """The bundle's base model does not know frogs and ships, and the device sees little else.

    After 150 requests the server publishes a signed submodel for the device, and recommends it to no other one. A
    restarted server has it.
    """
    bundle = hampered_bundle(tmp_path / "bundle", "general-1in50.1")
    keys = KeyDirectory.create(tmp_path / "keys", datetime.now(timezone.utc))
    keys.sign(Bundle(bundle), datetime.now(timezone.utc))
    root = TrustedRoot(keys.directory / "root.json")
    flags = ["--bundle", str(bundle), "--broker", mosquitto.url, "--threads", "1"]
    flags += ["--fine-tune", "--key", str(keys.directory / "server.key"), "--work", str(tmp_path / "updates")]
    rows = frogs_and_ships(0, 1000)[:MIN_FRAMES].tolist()
    images = sample.load().images[:, :, :, ::-1]
    sent = [encode(np.ascontiguousarray(images[row]))[1] for row in rows]
    server, device, other = ServerProcess(tmp_path, *flags), Device(mosquitto.port), Device(mosquitto.port, "other")
    try:
        # The broker may still have the catalogue of another test's server, which is no sign that this one listens.
        until(lambda: device.catalogue_of("hampered"))
        for picture in sent:
            assert isinstance(device.ask(picture), Answer)
        deadline = time.monotonic() + 300
        while len(messages := device.catalogue_of("hampered")) < 2:
            give_processor(server.process.pid)
            assert time.monotonic() < deadline and "no update" not in server.log(), server.log()
            time.sleep(0.1)
        update_message = messages[1]
        manifest = parse(update_message.payload)
        signed = [one.payload for one in device.catalogue if one.topic == protocol.signed_catalogue("hampered")][-1]
        files = protocol.decode(signed, protocol.SignedCatalogue, protocol.MAX_SIGNED).files
        assert parse(root.verify("hampered", files, time.time()).manifest) == manifest
        (update,) = manifest.submodels()
        assert manifest.models[update].devices == ("cam",)
        answers = device.ask(sent[0]), other.ask(sent[0])
        assert [answer.submodel for answer in answers if isinstance(answer, Answer)] == [update, None]
        assert device.pull(manifest.models[update].sha256, 0, 1).total == manifest.models[update].bytes
    finally:
        counts, _ = server.stop()
        server.close()
        device.link.stop()
        other.link.stop()
    assert counts["answers"] == MIN_FRAMES + 2
    again, device = ServerProcess(tmp_path, *flags), Device(mosquitto.port, "third")
    try:
        until(lambda: [message.payload for message in device.catalogue_of("hampered")][-1:] == [update_message.payload])
        until(lambda: "serving hampered" in again.log())
        assert {message.payload for message in device.catalogue_of("hampered")} == {update_message.payload}
    finally:
        again.stop()
        again.close()
        device.link.stop()
