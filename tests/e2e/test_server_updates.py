"""Submodels that a running server trains for the working sets of devices."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from cachenet.models.data import sample
from cachenet.shared.bundle.manifest import parse
from cachenet.shared.bundle.trust import Key, generate
from cachenet.shared.inference.image import encode
from cachenet.shared.transport import protocol
from cachenet.shared.transport.protocol import Answer
from tests.broker import Mosquitto
from tests.e2e.servers import Device, ServerProcess, until
from tests.hampered import FROG, SHIP, TRUCK, frogs_and_ships, hampered_bundle, pictures


def test_a_submodel_is_trained_for_a_working_set_and_recommended(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """The bundle's local models do not cover frogs and ships, and the device sees little else.

    After 300 requests the server publishes a signed submodel for them and recommends it. A restarted server has it.
    """
    private, public = generate(tmp_path / "keys")
    bundle = hampered_bundle(tmp_path / "bundle")
    (tmp_path / "data").mkdir()
    data = pictures(tmp_path / "data", 0, 500)
    flags = ["--bundle", str(bundle), "--broker", mosquitto.url, "--threads", "1"]
    flags += ["--fine-tune", "--data", str(data), "--key", str(private), "--work", str(tmp_path / "updates")]
    rows = frogs_and_ships(500, 1000).tolist()
    images = sample.load().images[:, :, :, ::-1]
    recent = " ".join(map(str, [FROG, SHIP, FROG, TRUCK] * 4))
    sent = [encode(np.ascontiguousarray(images[row]))[1] for row in rows]
    properties = [("budget-ms", "60000"), ("recent", recent)]
    server, device = ServerProcess(tmp_path, *flags), Device(mosquitto.port)
    try:
        device.ready()
        server.wait_for("ready to train")
        for number in range(330):
            assert isinstance(device.ask(sent[number % len(sent)], properties=properties), Answer)
        deadline = time.monotonic() + 300
        while len(messages := device.catalogue_of("hampered")) < 2:
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.1)
        update_message = messages[1]
        assert Key(public).verify(update_message.payload, protocol.signature(update_message.properties))
        manifest = parse(update_message.payload)
        (update,) = manifest.submodels()
        answer = device.ask(sent[0], properties=properties)
        assert isinstance(answer, Answer) and answer.submodel == update
        assert device.pull(manifest.models[update].sha256, 0, 1).total == manifest.models[update].bytes
    finally:
        counts, _ = server.stop()
        server.close()
        device.link.stop()
    assert counts["answers"] == 331
    again, device = ServerProcess(tmp_path, *flags), Device(mosquitto.port, "other")
    try:
        until(lambda: [message.payload for message in device.catalogue_of("hampered")][-1:] == [update_message.payload])
        again.wait_for("ready to train")
        assert {message.payload for message in device.catalogue_of("hampered")} == {update_message.payload}
    finally:
        again.stop()
        again.close()
        device.link.stop()
