"""MQTT discovery for Home Assistant: one device for each camera.

Payloads follow https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload. One retained message
describes the sensors of a camera; an empty message removes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from cachenet.edge_agent.outputs import results
from cachenet.shared.command.version import VERSION
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import MqttConnection

#: Name of the only camera of a device.
_ONLY = "camera"
#: Time without a result after which sensors are unavailable, seconds: several periods of results (``results``).
_EXPIRES_S = 60
_NAME = re.compile(r"[a-zA-Z0-9_-]+")


def announce_cameras(link: MqttConnection, prefix: str, device: str, cameras: Iterable[str]) -> None:
    """Publish the description of every camera, retained."""
    for camera in cameras:
        link.publish(config_topic(prefix, device, camera), config(device, camera), 1, retain=True)


def check_names(prefix: str, names: Iterable[str] = ()) -> None:
    """Raise ``ValueError`` for names that Home Assistant does not accept in a topic."""
    if not prefix or any(character in prefix for character in "+#\0"):
        raise ValueError(f"discovery_prefix {prefix!r} is no start of a topic")
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"Home Assistant takes letters, digits, '_' and '-' in names; call {name} another")


def birth_topic(prefix: str) -> str:
    """Topic of Home Assistant's birth message ``online``, after which cameras are announced again."""
    return f"{prefix}/status"


def config_topic(prefix: str, device: str, camera: str) -> str:
    """Topic of the description of a camera: ``<prefix>/device/<device>/<camera>/config``."""
    return f"{prefix}/device/{device}/{camera or _ONLY}/config"


def config(device: str, camera: str) -> bytes:
    """Description of a camera and its sensors, JSON."""
    camera_id = "/".join(filter(None, ["cachenet", device, camera]))
    payload = {
        "device": {
            "identifiers": [camera_id],
            "name": f"{device} {camera}" if camera else device,
            "manufacturer": "CacheNet",
            "model": "edge-agent",
            "sw_version": VERSION,
        },
        "origin": {"name": "CacheNet", "sw_version": VERSION},
        "availability": [
            {
                "topic": protocol.topic(device, "status"),
                # Other states are ``offline`` (connection lost) and ``stopped``.
                "value_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
            }
        ],
        "state_topic": results.topic(device, camera),
        "components": {
            "label": _sensor(camera_id, "label", "Label", "label", icon="mdi:eye"),
            "confidence": _sensor(camera_id, "confidence", "Confidence", "confidence", **_SHARE),
            "level": _sensor(camera_id, "level", "Level", "level", icon="mdi:layers-triple"),
            "local_share": _sensor(camera_id, "local_share", "Local share", "local_share", **_SHARE, **_DIAGNOSTIC),
            "latency": _sensor(camera_id, "latency", "Latency", "mean_latency_ms", **_LATENCY, **_DIAGNOSTIC),
        },
    }
    return msgspec.json.encode(payload)


_MEASURED = {"state_class": "measurement", "suggested_display_precision": 1}
_SHARE = {"unit_of_measurement": "%", **_MEASURED}
_LATENCY = {"unit_of_measurement": "ms", "device_class": "duration", **_MEASURED}
_DIAGNOSTIC = {"entity_category": "diagnostic"}


def _sensor(camera_id: str, key: str, name: str, field: str, **more: Any) -> dict[str, Any]:
    """A sensor that shows ``field`` of the result; shares are shown as percentages."""
    value = f"value_json.{field}"
    if more.get("unit_of_measurement") == "%":
        value = f"({value} * 100) | round(1)"
    return {
        "platform": "sensor",
        "unique_id": f"{camera_id}/{key}",
        "name": name,
        "value_template": f"{{{{ {value} }}}}",
        "expire_after": _EXPIRES_S,
        **more,
    }
