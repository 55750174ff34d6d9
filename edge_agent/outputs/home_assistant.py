"""MQTT discovery for Home Assistant: one device for each camera.

Payloads follow https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload. One retained message
describes the entities of a camera; an empty message removes them. Labels are known when the bundle has arrived, so a
camera is announced then, and again when its labels change.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs import results, snapshots
from cachenet.shared.bundle.manifest import Task
from cachenet.shared.command.version import VERSION
from cachenet.shared.transport import protocol

#: Name of the only camera of a device.
_ONLY = "camera"
#: Time without a result after which entities are unavailable, seconds: several periods of results (``results``).
_EXPIRES_S = 60
#: Most labels of a detector's camera that have entities. A bundle of more labels, such as COCO's 80, has entities for
#: the labels that were found first.
_MAX_LABELS = 10
#: Most entities of a camera: zones leave fewer labels. A payload of 200 entities has 80 kB.
_MAX_ENTITIES = 200
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_Component = dict[str, Any]


class Description(msgspec.Struct, frozen=True):
    """What the entities of a camera depend on.

    Attributes:
        camera: Name of the camera; empty for the only one.
        zones: Names of its zones.
        labels: Labels of a detector that have entities.
    """

    camera: str
    task: Task
    zones: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


class Announcer:
    """Announces cameras, and is an observer that announces labels when they are found; thread-safe."""

    def __init__(self, publish: Callable[[str, bytes, int, bool], bool], prefix: str, device: str) -> None:
        """``publish``: sends a payload to a topic with a quality of service, retained or not."""
        self._publish, self._prefix, self._device = publish, prefix, device
        self._cameras: dict[str, Description] = {}
        self._lock = threading.Lock()

    def describe(self, camera: str, task: Task, zones: Iterable[str], labels: tuple[str, ...]) -> None:
        """Announce a camera if its description has changed. ``labels``: all labels of its bundle."""
        names = tuple(zones)
        with self._lock:
            before = self._cameras.get(camera)
            shown: tuple[str, ...] = ()
            if task == "detection":
                shown = labels
                if len(labels) > max_labels(len(names)):
                    shown = tuple(label for label in (before.labels if before is not None else ()) if label in labels)
            description = Description(camera, task, names, shown)
            if description != before:
                self._announce(description)

    def on_frame(self, answered: AnsweredFrame) -> None:
        """Announce labels that are found for the first time, up to the limit; called by the hot loop."""
        line = answered.line
        known = self._cameras.get(line.camera)
        if not line.counts or known is None or len(known.labels) >= max_labels(len(known.zones)):
            return
        if line.counts.keys() <= set(known.labels):
            return
        with self._lock:
            known = self._cameras[line.camera]
            labels = dict.fromkeys((*known.labels, *line.counts))
            shown = tuple(labels)[: max_labels(len(known.zones))]
            self._announce(msgspec.structs.replace(known, labels=shown))

    def announce(self) -> None:
        """Announce all cameras again: after a connection, and when Home Assistant has started."""
        with self._lock:
            for description in self._cameras.values():
                self._announce(description)

    def _announce(self, description: Description) -> None:
        before = self._cameras.get(description.camera)
        self._cameras[description.camera] = description
        topic = config_topic(self._prefix, self._device, description.camera)
        if before is not None and (gone := removed(self._device, before, description)):
            self._publish(topic, config(self._device, description, gone), 1, True)
        self._publish(topic, config(self._device, description), 1, True)


def max_labels(zones: int) -> int:
    """Most labels with entities: two for the whole picture and two for each of the zones."""
    return min(_MAX_LABELS, _MAX_ENTITIES // (2 * (zones + 1)))


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


def removed(device: str, before: Description, after: Description) -> dict[str, _Component]:
    """The components of a former description that are in a later one no longer, with their platform alone.

    Home Assistant keeps an entity that is merely missing; a component with a platform and nothing else removes it.
    """
    own = _components(device, after)
    return {
        name: {"platform": component["platform"]}
        for name, component in _components(device, before).items()
        if name not in own
    }


def config(device: str, description: Description, gone: Mapping[str, _Component] = MappingProxyType({})) -> bytes:
    """The payload that describes a camera and its entities, JSON. ``gone``: ``removed``."""
    camera = description.camera
    camera_id = _camera_id(device, camera)
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
        "components": {**_components(device, description), **gone},
    }
    return msgspec.json.encode(payload)


def _camera_id(device: str, camera: str) -> str:
    return "/".join(filter(None, ["cachenet", device, camera]))


def _components(device: str, description: Description) -> dict[str, _Component]:
    """The entities of a camera by key."""
    camera_id = _camera_id(device, description.camera)
    if description.task == "detection":
        return _of_detector(camera_id, device, description)
    if description.zones:
        return _of_zones(camera_id, device, description)
    return {"label": _label(camera_id), "confidence": _confidence(camera_id), **_of_camera(camera_id)}


_MEASURED = {"state_class": "measurement", "suggested_display_precision": 1}
_SHARE = {"unit_of_measurement": "%", **_MEASURED}
_LATENCY = {"unit_of_measurement": "ms", "device_class": "duration", **_MEASURED}
_DIAGNOSTIC = {"entity_category": "diagnostic"}
_COUNT = {"icon": "mdi:counter", "state_class": "measurement"}


def _of_camera(camera_id: str) -> dict[str, _Component]:
    """Sensors of every camera with one answer a frame."""
    return {
        "level": _sensor(f"{camera_id}/level", "Level", "value_json.level", icon="mdi:layers-triple"),
        "local_share": _share(f"{camera_id}/local_share", "Local share", "value_json.local_share", **_DIAGNOSTIC),
        "latency": _sensor(f"{camera_id}/latency", "Latency", "value_json.mean_latency_ms", **_LATENCY, **_DIAGNOSTIC),
    }


def _of_zones(camera_id: str, device: str, description: Description) -> dict[str, _Component]:
    """Label and confidence of each zone of a classifier."""
    components = {}
    for zone in description.zones:
        own_id, state = f"{camera_id}/{zone}", {"state_topic": results.topic(device, description.camera, zone)}
        components[f"label_{_key(zone)}"] = {**_label(own_id, f"{zone} label"), **state}
        components[f"confidence_{_key(zone)}"] = {**_confidence(own_id, f"{zone} confidence"), **state}
    return components


def _of_detector(camera_id: str, device: str, description: Description) -> dict[str, _Component]:
    """Occupancy and count of each label, in the picture and in each zone; the number of all objects; the snapshot."""
    components = _of_camera(camera_id)
    components["snapshot"] = {
        "platform": "image",
        "unique_id": f"{camera_id}/snapshot",
        "name": "Snapshot",
        "image_topic": snapshots.topic(device, description.camera),
        "content_type": "image/jpeg",
    }
    total = "value_json.counts.values() | sum"
    components["objects"] = _sensor(f"{camera_id}/objects", "Objects", total, **_COUNT)
    for zone in ("", *description.zones):
        counts = f"value_json.zone_counts[{_text(zone)}]" if zone else "value_json.counts"
        for label in description.labels:
            name = " ".join(filter(None, [zone, label]))
            own_id, key = f"{camera_id}/objects/{zone}/{label}", f"{_key(zone)}_{_key(label)}"
            number = f"{counts}.get({_text(label)}, 0)"
            components[f"count_{key}"] = _sensor(f"{own_id}/count", f"{name} count", number, **_COUNT)
            components[f"occupancy_{key}"] = {
                **_sensor(f"{own_id}/occupancy", name, f"'ON' if {number} > 0 else 'OFF'"),
                "platform": "binary_sensor",
                "device_class": "occupancy",
            }
    return components


def _label(of: str, name: str = "Label") -> _Component:
    return _sensor(f"{of}/label", name, "value_json.label", icon="mdi:eye")


def _confidence(of: str, name: str = "Confidence") -> _Component:
    return _share(f"{of}/confidence", name, "value_json.confidence")


def _share(unique_id: str, name: str, value: str, **more: Any) -> _Component:
    """A sensor of a share, shown as a percentage."""
    return _sensor(unique_id, name, f"({value} * 100) | round(1)", **_SHARE, **more)


def _sensor(unique_id: str, name: str, value: str, **more: Any) -> _Component:
    """A sensor of a value of the result. ``value``: an expression of Home Assistant's templates."""
    return {
        "platform": "sensor",
        "unique_id": unique_id,
        "name": name,
        "value_template": f"{{{{ {value} }}}}",
        "expire_after": _EXPIRES_S,
        **more,
    }


def _text(text: str) -> str:
    """``text`` as a string in a template."""
    escaped = text.encode("unicode_escape").decode()
    return '"' + "".join(rf"\x{ord(letter):02x}" if letter in '"{}' else letter for letter in escaped) + '"'


def _key(name: str) -> str:
    """``name`` as a part of a key of letters, digits and ``_``; different names have different keys."""
    return re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):x}_", name)
