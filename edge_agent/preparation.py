"""Checks of an agent's settings, and the parts that an agent is built from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cachenet.edge_agent.outputs import home_assistant
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.extras import require_signing
from cachenet.shared.inference.engine import providers
from cachenet.shared.transport.broker import Address, from_options
from cachenet.shared.transport.protocol import check_device

if TYPE_CHECKING:
    from cachenet.shared.bundle.trust import TrustedRoot

#: Message about an outbox that nothing would be sent from.
NO_SERVER = "outbox is for a server: give --broker mqtt://host, level cloud, and no --mode offline"


class Parts(NamedTuple):
    """Arguments of ``Agent`` after its settings and sources."""

    brokers: tuple[Address, ...]
    store: Store | None
    bundle: Bundle | None
    trusted: TrustedRoot | None


def prepare(settings: Settings) -> Parts:
    """Check what validated settings refer to, but for the sources; open the bundle or lock the store.

    Raises:
        UserError, ValueError, OSError: A setting cannot be used. The message says which setting and why.
    """
    if not settings.broker and not settings.bundle:
        raise ValueError("nothing to answer with: give --broker mqtt://host, or --bundle (such as cifar10)")
    if "base" not in settings.levels and not settings.asks_server:
        raise ValueError(
            "no level can answer: levels must include base, or cloud with a --broker and not offline"
            + "; full only helps base, and base=full with levels=base runs it alone" * ("full" in settings.levels)
        )
    check_device(settings.device)
    providers(settings.provider)
    if (settings.results or settings.home_assistant) and not settings.broker:
        raise ValueError("results and Home Assistant need a broker: give --broker mqtt://host")
    if settings.outbox_bytes and not settings.asks_server:
        raise ValueError(NO_SERVER)
    if settings.home_assistant:
        names = [settings.device, *(camera.name for camera in settings.camera)]
        home_assistant.check_names(settings.discovery_prefix, names)
    bundle = Bundle(zoo.find(settings.bundle)) if settings.bundle else None
    if bundle is not None and settings.base and settings.base not in bundle.manifest.models:
        raise ValueError(f"base {settings.base}: the bundle has {', '.join(bundle.manifest.models)}")
    where, trusted = brokers(settings), trusted_root(settings)
    store = Store(Path(settings.store)) if bundle is None else None
    if store is not None:
        store.lock()
    return Parts(where, store, bundle, trusted)


def brokers(settings: Settings) -> tuple[Address, ...]:
    """The brokers of the settings; none without ``broker``. Raises ``MqttError``."""
    return from_options(settings.broker, settings.password_file, settings.ca) if settings.broker else ()


def trusted_root(settings: Settings) -> TrustedRoot | None:
    """The root of trust of the settings; None without one. Raises ``UserError``."""
    if not settings.trusted_root:
        return None
    require_signing()
    from cachenet.shared.bundle.trust import TrustedRoot

    return TrustedRoot(Path(settings.trusted_root))
