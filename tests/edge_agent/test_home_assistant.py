"""Discovery messages: documented keys, subscribed topics and fields of results."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.outputs import home_assistant, results
from cachenet.edge_agent.outputs.results import Result
from cachenet.shared.transport.protocol import Status, topic

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
#: What core's mqtt/discovery.py takes as a discovery topic, below the prefix.
TOPIC = re.compile(r"device/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")
NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,20}", fullmatch=True)


def config(device: str, camera: str) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(home_assistant.config(device, camera))
    return payload


def fields(template: str) -> set[str]:
    return set(re.findall(r"value_json\.(\w+)", template))


@given(NAMES, st.just("") | NAMES)
def test_a_payload_has_only_documented_keys_and_all_that_are_required(device: str, camera: str) -> None:
    payload = config(device, camera)
    assert {"device", "origin", "components"} <= set(payload) <= ROOT
    assert set(payload["device"]) <= DEVICE
    assert payload["device"]["identifiers"]
    assert {"name"} <= set(payload["origin"]) <= ORIGIN
    for availability in payload["availability"]:
        assert {"topic"} <= set(availability) <= AVAILABILITY
    assert set(payload["components"]) == {"label", "confidence", "level", "local_share", "latency"}
    for component in payload["components"].values():
        assert {"platform", "unique_id", "value_template"} <= set(component) <= SENSOR
        assert component["platform"] == "sensor"
        assert component.get("entity_category", "diagnostic") == "diagnostic"
        assert component.get("state_class", "measurement") == "measurement"
        assert isinstance(component["expire_after"], int)
        assert component["expire_after"] > 2 * results._MAX_PERIOD_S, "a camera that answers never looks gone"
        if "device_class" in component:
            assert (component["device_class"], component["unit_of_measurement"]) == ("duration", "ms")
    assert TOPIC.fullmatch(home_assistant.config_topic("homeassistant", device, camera).removeprefix("homeassistant/"))


def test_sensors_read_fields_that_results_and_status_have() -> None:
    payload = config("pi", "yard")
    for component in payload["components"].values():
        assert fields(component["value_template"]) < set(Result.__struct_fields__)
    (availability,) = payload["availability"]
    assert fields(availability["value_template"]) == {"state"} < set(Status.__struct_fields__)
    assert availability["topic"] == topic("pi", "status")
    assert payload["state_topic"] == results.topic("pi", "yard") == "cachenet/2/pi/result/yard"
    assert config("pi", "")["state_topic"] == "cachenet/2/pi/result"


@given(st.lists(st.tuples(NAMES, st.just("") | NAMES), min_size=2, max_size=2, unique=True))
def test_cameras_of_all_devices_are_distinguished(cameras: list[tuple[str, str]]) -> None:
    one, other = (config(*camera) for camera in cameras)
    assert not set(one["device"]["identifiers"]) & set(other["device"]["identifiers"])
    ids = [component["unique_id"] for payload in (one, other) for component in payload["components"].values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ["porch.pi", "Türe", "a b", ""])
def test_names_that_home_assistant_does_not_take_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        home_assistant.check_names("homeassistant", ["pi", name])


@pytest.mark.parametrize("prefix", ["", "home/#", "+"])
def test_a_prefix_that_is_no_topic_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="discovery_prefix"):
        home_assistant.check_names(prefix)
