"""Version 1 of the protocol: how a server refuses its devices, and how a device recognises its servers.

Version 1 has the topics of version 2 under another root, and no answers with boxes. The forms below are fixed: devices
of version 1 read them.
"""

from __future__ import annotations

import json

from cachenet.shared.transport.protocol import VERSION, Rejection

ROOT = "cachenet/1"
#: Requests of its devices, for servers. Each topic has a group of its own; see ``protocol.SERVER_TOPICS``.
SERVER_TOPICS = (
    f"$share/cloud-infer-1/{ROOT}/+/infer/#",
    f"$share/cloud-audit-1/{ROOT}/+/audit/#",
    f"$share/cloud-blob-1/{ROOT}/+/blob/get",
)
#: Topics of the manifests of its servers.
CATALOGUE_TOPICS = f"{ROOT}/catalogue/#"

#: Line for the user of a device. Devices of version 1 show its first 80 characters.
REFUSAL = f"server speaks protocol version {VERSION}, this device version 1: update edge-agent"
#: Reply to a request. The reason is one that version 1 knows.
REJECTION = Rejection("unknown-model", REFUSAL)
#: Content of the catalogue: a manifest that devices of version 1 refuse with this line in their log.
CATALOGUE = json.dumps({"format": 3, REFUSAL: True}).encode()
#: Line for the user of a device whose servers all speak version 1.
OLD_SERVER = (
    f"the server on this broker speaks version 1 of the protocol, this device version {VERSION}: update cloud-server"
)


def old_device(name: str) -> str:
    """Line for the operator of a server that was asked by a device of version 1."""
    return f"{name} speaks version 1 of the protocol, this server version {VERSION}: update edge-agent on {name}"


def is_server(topic: str, payload: bytes) -> bool:
    """Whether a retained message is the catalogue of a server of version 1."""
    return topic.startswith(CATALOGUE_TOPICS[:-1]) and payload not in (b"", CATALOGUE)
