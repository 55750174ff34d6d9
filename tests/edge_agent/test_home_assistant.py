"""Discovery messages: documented keys, subscribed topics and fields of results."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs import home_assistant, results, snapshots
from cachenet.edge_agent.outputs.home_assistant import Announcer, Description
from cachenet.edge_agent.outputs.report import View
from cachenet.edge_agent.outputs.results import Result, Results
from cachenet.edge_agent.zones import MAX_ZONES, Zone
from cachenet.shared.transport.protocol import Status, topic
from tests.edge_agent.frames import detected_frame, detector, tracked

# Written down from https://www.home-assistant.io/integrations/mqtt/ (device discovery payload, origin) and
# https://www.home-assistant.io/integrations/sensor.mqtt/; the same as Home Assistant's own schemas have them
# (homeassistant 2024.3.3, components/mqtt: sensor.DISCOVERY_SCHEMA, mixins; for the whole, core's mqtt/schemas.py:
# DEVICE_DISCOVERY_SCHEMA), which these payloads were put through, with nothing extra allowed.
ROOT = {
    *("device", "origin", "components"),
    *("availability", "availability_mode", "availability_topic", "availability_template"),
    *("payload_available", "payload_not_available", "state_topic", "command_topic", "qos", "encoding"),
}
DEVICE = {
    *("identifiers", "connections", "manufacturer", "model", "name", "hw_version", "serial_number", "sw_version"),
    *("via_device", "suggested_area", "configuration_url"),
}
ORIGIN = {"name", "sw_version", "support_url"}
AVAILABILITY = {"topic", "payload_available", "payload_not_available", "value_template"}
SENSOR = {
    *("platform", "unique_id", "object_id", "name", "icon", "enabled_by_default", "entity_category"),
    *("device_class", "state_class", "unit_of_measurement", "suggested_display_precision"),
    *("value_template", "last_reset_value_template", "expire_after", "force_update", "state_topic", "qos", "encoding"),
    *("json_attributes_topic", "json_attributes_template"),
}
# Written down from core's components/mqtt/binary_sensor.py and image.py: PLATFORM_SCHEMA, MQTT_ENTITY_COMMON_SCHEMA.
_COMMON = {"platform", "unique_id", "object_id", "name", "icon", "enabled_by_default", "entity_category"}
BINARY_SENSOR = {
    *_COMMON,
    *("device_class", "expire_after", "force_update", "off_delay", "payload_off", "payload_on"),
    *("value_template", "state_topic", "qos", "encoding", "json_attributes_topic", "json_attributes_template"),
}
IMAGE = {*_COMMON, *("content_type", "image_topic", "image_encoding", "url_topic", "url_template", "qos", "encoding")}
ENTITIES = {"sensor": SENSOR, "binary_sensor": BINARY_SENSOR}
#: What core's mqtt/discovery.py takes as a discovery topic, below the prefix.
TOPIC = re.compile(r"device/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")
NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,20}", fullmatch=True)


def config(device: str, description: Description) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(home_assistant.config(device, description))
    return payload


def fields(template: str) -> set[str]:
    return set(re.findall(r"value_json\.(\w+)", template))


def render(template: str, answered: AnsweredFrame) -> str:
    """The value of a template for the published result of a frame."""
    published: list[bytes] = []
    Results(lambda _, payload: bool(published.append(payload)) or True, "pi").on_frame(answered)
    return jinja2.Environment().from_string(template).render(value_json=json.loads(published[0]))


CLASSIFIER = Description("yard", "classification")
LABELS = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=12)
DESCRIPTIONS = st.builds(
    Description,
    st.just("") | NAMES,
    st.sampled_from(["classification", "detection"]),
    st.lists(NAMES, max_size=3, unique=True).map(tuple),
    st.lists(LABELS, max_size=4, unique=True).map(tuple),
)


@given(NAMES, DESCRIPTIONS)
def test_a_payload_has_only_documented_keys_and_all_that_are_required(device: str, description: Description) -> None:
    payload = config(device, description)
    assert {"device", "origin", "components"} <= set(payload) <= ROOT
    assert set(payload["device"]) <= DEVICE
    assert payload["device"]["identifiers"]
    assert {"name"} <= set(payload["origin"]) <= ORIGIN
    for availability in payload["availability"]:
        assert {"topic"} <= set(availability) <= AVAILABILITY
    for key, component in payload["components"].items():
        assert re.fullmatch("[A-Za-z0-9_]+", key)
        assert component.get("entity_category", "diagnostic") == "diagnostic"
        if component["platform"] == "image":
            assert {"platform", "unique_id", "image_topic"} <= set(component) <= IMAGE
            continue
        assert {"platform", "unique_id", "value_template"} <= set(component) <= ENTITIES[component["platform"]]
        assert component.get("state_class", "measurement") == "measurement"
        assert isinstance(component["expire_after"], int)
        assert component["expire_after"] > 2 * results._MAX_PERIOD_S, "a camera that answers never looks gone"
        if "device_class" in component:
            unit = component.get("unit_of_measurement")
            assert (component["device_class"], unit) in {("duration", "ms"), ("occupancy", None)}
    topic = home_assistant.config_topic("homeassistant", device, description.camera)
    assert TOPIC.fullmatch(topic.removeprefix("homeassistant/"))


def test_a_classifier_has_a_label_and_each_of_its_zones_has_one() -> None:
    payload = config("pi", CLASSIFIER)
    assert set(payload["components"]) == {"label", "confidence", "level", "local_share", "latency"}
    zoned = config("pi", Description("yard", "classification", ("gate", "bay-1")))["components"]
    assert set(zoned) == {"label_gate", "confidence_gate", "label_bay_2d_1", "confidence_bay_2d_1"}
    assert zoned["label_bay_2d_1"]["state_topic"] == results.topic("pi", "yard", "bay-1")
    assert zoned["label_gate"]["name"] == "gate label"


def test_a_detector_has_an_occupancy_and_a_count_for_each_label_and_zone_and_a_snapshot() -> None:
    description = Description("yard", "detection", ("gate",), ("person", "car"))
    components = config("pi", description)["components"]
    platforms = Counter(component["platform"] for component in components.values())
    # Beside the counts: all objects, level, local share, latency.
    assert platforms == {"binary_sensor": 4, "sensor": 4 + 4, "image": 1}
    assert components["snapshot"]["image_topic"] == snapshots.topic("pi", "yard") == "cachenet/2/pi/snapshot/yard"
    assert components["occupancy_gate_person"]["name"] == "gate person"
    assert components["count__car"]["name"] == "car count"


def test_sensors_read_fields_that_results_and_status_have() -> None:
    payload = config("pi", CLASSIFIER)
    components = [*payload["components"].values()]
    components += config("pi", Description("yard", "detection", ("gate",), ("person",)))["components"].values()
    for component in components:
        assert fields(component.get("value_template", "")) <= set(Result.__struct_fields__)
    (availability,) = payload["availability"]
    assert fields(availability["value_template"]) == {"state"} < set(Status.__struct_fields__)
    assert availability["topic"] == topic("pi", "status")
    assert payload["state_topic"] == results.topic("pi", "yard") == "cachenet/2/pi/result/yard"
    assert config("pi", Description("", "classification"))["state_topic"] == "cachenet/2/pi/result"


_LEFT = Zone("left-1", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))


@given(st.lists(LABELS, min_size=2, max_size=2, unique=True), st.lists(st.tuples(st.booleans(), st.integers(0, 1))))
@settings(max_examples=15)
def test_templates_give_the_counts_of_the_result_whatever_labels_are_called(
    labels: list[str], objects: list[tuple[bool, int]]
) -> None:
    found = [
        tracked(number, (0.1 if left else 0.8, 0.1, 0.1, 0.1), label) for number, (left, label) in enumerate(objects)
    ]
    answered = detected_frame(found, view=View(zones=(_LEFT,)), manifest=detector(*labels))
    components = config("pi", Description("", "detection", ("left-1",), tuple(labels)))["components"]
    values = {
        component["unique_id"]: render(component["value_template"], answered)
        for component in components.values()
        if "value_template" in component
    }
    assert values["cachenet/pi/objects"] == str(len(objects))
    for number, label in enumerate(labels):
        for zone, expected in (("", [own for _, own in objects]), ("left-1", [own for left, own in objects if left])):
            count = expected.count(number)
            assert values[f"cachenet/pi/objects/{zone}/{label}/count"] == str(count)
            assert values[f"cachenet/pi/objects/{zone}/{label}/occupancy"] == ("ON" if count else "OFF")


@given(st.lists(st.tuples(NAMES, DESCRIPTIONS), min_size=2, max_size=2, unique_by=lambda own: (own[0], own[1].camera)))
def test_cameras_of_all_devices_are_distinguished(cameras: list[tuple[str, Description]]) -> None:
    one, other = (config(*camera) for camera in cameras)
    assert not set(one["device"]["identifiers"]) & set(other["device"]["identifiers"])
    ids = [component["unique_id"] for payload in (one, other) for component in payload["components"].values()]
    assert len(set(ids)) == len(ids)


class Broker:
    """Retained descriptions of an announcer."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.announcer = Announcer(self._publish, "homeassistant", "pi")

    def _publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> bool:
        assert (qos, retain) == (1, True)
        self.messages.append((topic, json.loads(payload)))
        return True

    def labels(self) -> list[str]:
        """Labels with an occupancy in the last description."""
        last = self.messages[-1][1]["components"].values()
        return [component["name"] for component in last if component["platform"] == "binary_sensor"]


def test_a_camera_is_announced_when_its_bundle_has_come_and_again_when_its_labels_change() -> None:
    broker = Broker()
    broker.announcer.announce()
    assert not broker.messages
    for labels in (("person",), ("person",), ("person", "car")):
        broker.announcer.describe("yard", "detection", (), labels)
    assert len(broker.messages) == 2
    assert broker.labels() == ["person", "car"]
    broker.announcer.announce()
    assert broker.messages[-1] == broker.messages[-2]


def test_entities_of_a_former_task_are_removed_by_a_description_with_their_platform_alone() -> None:
    """Home Assistant keeps what is merely missing from a later description."""
    broker = Broker()
    broker.announcer.describe("yard", "classification", (), ())
    broker.announcer.describe("yard", "detection", (), ("person",))
    _, removing, last = (message["components"] for _, message in broker.messages)
    assert removing["label"] == removing["confidence"] == {"platform": "sensor"}
    assert last == {name: own for name, own in removing.items() if name not in ("label", "confidence")}
    assert "count__person" in last
    broker.announcer.describe("yard", "classification", (), ())
    removing = broker.messages[-2][1]["components"]
    assert removing["occupancy__person"] == {"platform": "binary_sensor"}
    assert removing["snapshot"] == {"platform": "image"}
    assert broker.messages[-1] == broker.messages[0]


def test_of_many_labels_those_that_were_found_first_are_announced_up_to_a_limit() -> None:
    broker, labels = Broker(), tuple(f"label {number}" for number in range(80))
    broker.announcer.describe("", "detection", (), labels)
    assert broker.labels() == []
    for number in (7, 3, 7, 3):
        answered = detected_frame([tracked(1, (0.1, 0.1, 0.1, 0.1), number)], manifest=detector(*labels))
        broker.announcer.on_frame(answered)
    assert broker.labels() == ["label 7", "label 3"]
    assert len(broker.messages) == 3
    broker.announcer.describe("", "detection", (), labels[:20])
    assert broker.labels() == ["label 7", "label 3"], "after an update too"
    for number in range(80):
        answered = detected_frame([tracked(1, (0.1, 0.1, 0.1, 0.1), number)], manifest=detector(*labels))
        broker.announcer.on_frame(answered)
    assert len(broker.labels()) == 10
    assert len(broker.messages) == 3 + 8


@given(st.integers(0, MAX_ZONES))
def test_the_entities_of_a_camera_are_bounded(zones: int) -> None:
    names = tuple(f"zone{number}" for number in range(zones))
    labels = tuple(f"label{number}" for number in range(home_assistant.max_labels(zones)))
    payload = home_assistant.config("pi", Description("yard", "detection", names, labels))
    assert labels
    assert len(json.loads(payload)["components"]) <= 205
    assert len(payload) < 100_000


@pytest.mark.parametrize("name", ["porch.pi", "Türe", "a b", ""])
def test_names_that_home_assistant_does_not_take_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        home_assistant.check_names("homeassistant", ["pi", name])


@pytest.mark.parametrize("prefix", ["", "home/#", "+"])
def test_a_prefix_that_is_no_topic_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="discovery_prefix"):
        home_assistant.check_names(prefix)
