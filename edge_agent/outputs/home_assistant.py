"""Home Assistant finds the cameras by itself: MQTT discovery, a device for each camera.

Payloads are those of device discovery (https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload): one
retained message describes a camera's sensors, an empty one removes them.
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

#: Home Assistant's own name for a camera that has none.
_ONLY = "camera"
#: Sensors that have heard nothing for so many seconds show that they know nothing: several times what lies between two
#: results of a camera that answers.
_EXPIRES_S = 60
_NAME = re.compile(r"[a-zA-Z0-9_-]+")


def announce_cameras(link: MqttConnection, prefix: str, device: str, cameras: Iterable[str]) -> None:
    """Tell Home Assistant, if it is there or whenever it will be, of every camera."""
    for camera in cameras:
        link.publish(config_topic(prefix, device, camera), config(device, camera), 1, retain=True)


def check_names(prefix: str, names: Iterable[str] = ()) -> None:
    """Raises ``ValueError`` for names that Home Assistant does not take in a topic."""
    if not prefix or any(character in prefix for character in "+#\0"):
        raise ValueError(f"--discovery-prefix {prefix!r}: that is no beginning of a topic")
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"Home Assistant takes letters, digits, '_' and '-' in names; call {name} another")


def birth_topic(prefix: str) -> str:
    """Where Home Assistant says ``online`` when it has started, and wants to be told what there is."""
    return f"{prefix}/status"


def config_topic(prefix: str, device: str, camera: str) -> str:
    """Where a camera is described; all of a device are under ``<prefix>/device/<device>/``."""
    return f"{prefix}/device/{device}/{camera or _ONLY}/config"


def config(device: str, camera: str) -> bytes:
    """The description of a camera and its sensors, JSON."""
    this = "/".join(filter(None, ["cachenet", device, camera]))
    payload = {
        "device": {
            "identifiers": [this],
            "name": f"{device} {camera}" if camera else device,
            "manufacturer": "CacheNet",
            "model": "edge-agent",
            "sw_version": VERSION,
        },
        "origin": {"name": "CacheNet", "sw_version": VERSION},
        "availability": [
            {
                "topic": protocol.topic(device, "status"),
                # There are two ways to be offline: gone, and stopped.
                "value_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
            }
        ],
        "state_topic": results.topic(device, camera),
        "components": {
            "label": _sensor(this, "label", "Label", "label", icon="mdi:eye"),
            "confidence": _sensor(this, "confidence", "Confidence", "confidence", **_SHARE),
            "level": _sensor(this, "level", "Level", "level", icon="mdi:layers-triple"),
            "local_share": _sensor(this, "local_share", "Local share", "local_share", **_SHARE, **_DIAGNOSTIC),
            "latency": _sensor(this, "latency", "Latency", "mean_latency_ms", **_LATENCY, **_DIAGNOSTIC),
        },
    }
    return msgspec.json.encode(payload)


_MEASURED = {"state_class": "measurement", "suggested_display_precision": 1}
_SHARE = {"unit_of_measurement": "%", **_MEASURED}
_LATENCY = {"unit_of_measurement": "ms", "device_class": "duration", **_MEASURED}
_DIAGNOSTIC = {"entity_category": "diagnostic"}


def _sensor(this: str, key: str, name: str, field: str, **more: Any) -> dict[str, Any]:
    """``field``: of a result; what is a share there is a percentage here."""
    value = f"value_json.{field}"
    if more.get("unit_of_measurement") == "%":
        value = f"({value} * 100) | round(1)"
    return {
        "platform": "sensor",
        "unique_id": f"{this}/{key}",
        "name": name,
        "value_template": f"{{{{ {value} }}}}",
        "expire_after": _EXPIRES_S,
        **more,
    }
