"""Network addresses as they may be shown: without anything that can hold a password."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

#: What takes the place of a part that is not shown.
HIDDEN = "..."

#: A scheme and the rest. FFmpeg and OpenCV take schemes in capitals too.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
#: A scheme that is not followed by a colon and two slashes, which is a slip.
_NEARLY = re.compile(
    r"(rtsps?|rtmp[ste]*|https?|mqtts?|srt|udp|tcp)(?::/?|;/{0,2}|//)(?!/)(.*)", re.DOTALL | re.IGNORECASE
)
#: An address that was written without a scheme, but with a user and a password.
_BARE = re.compile(r"(?!camera:|picamera:|pipe:)(?:[^/:@\s]+|//[^/:@\s]+):.*@.", re.DOTALL | re.IGNORECASE)
#: A password, or what takes its place, in a query.
_QUERY = re.compile(r"(pass\w*|pwd|pw|token|auth\w*|secret)=", re.IGNORECASE)
#: A source of another kind, and what follows its name.
_KIND = re.compile(r"(camera|picamera|pipe):(.*)", re.DOTALL)
#: A host name or an address of IPv4 or IPv6, and a port.
_PLACE = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(:[0-9]{1,5})?")
#: An address within a text, up to a space or a quotation mark.
_WITHIN = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s'"]+""")


def without_password(address: str) -> str:
    """``address`` with its scheme, host and port alone, as in ``rtsp://10.0.0.4:554/...``.

    Cameras take a password before the ``@``, in the path (``/user=admin_password=S_channel=1.sdp``, ``/0/admin:S/main``
    or a token) and in the query, and nothing tells it from a harmless path: all of them are left out. The user of a
    broker is kept where it has no password, because it names the device. Where two readings of an address are possible,
    as in ``rtsp://u:a@b/c@d``, the host is left out too. What is no network address (a file, ``camera:0``) is returned
    as it is.
    """
    bare = address.strip()
    if (found := _SCHEME.fullmatch(bare) or _NEARLY.fullmatch(bare)) is not None:
        scheme, rest = found.groups()
        return f"{scheme}://{_place(scheme.lower(), rest)}"
    if (found := _KIND.fullmatch(bare)) is not None:
        return f"{found[1]}:{without_password(found[2])}"
    if _BARE.match(bare):
        return f"{HIDDEN}@{_place('', bare.lstrip('/'))}"
    return _place("", bare) if _QUERY.search(bare) else address


def _place(scheme: str, rest: str) -> str:
    """The part of an address after its ``//`` that may be shown."""
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    after = rest[len(authority) :]
    more = f"/{HIDDEN}" if after.strip("/") else ""
    if "@" not in after:
        user, at, place = authority.rpartition("@")
        shown = place if _PLACE.fullmatch(place) else HIDDEN
        named = at and scheme in ("mqtt", "mqtts") and re.fullmatch(r"[\w.%-]+", user)
        return (f"{user}@" if named else "") + shown + more
    # A password with an unescaped slash, or an @ in the path.
    if "@" in authority:
        return HIDDEN
    if (found := _PLACE.fullmatch(authority)) is not None:
        # The host, or a user and the digits that a password begins with: those are not shown.
        return f"{found[1]}/{HIDDEN}"
    place = re.split(r"[/?#\\]", after.partition("@")[2], maxsplit=1)[0]
    if after.count("@") == 1 and _PLACE.fullmatch(place):
        return f"{place}/{HIDDEN}"
    return HIDDEN


def hide(text: str, known: Iterable[str] = ()) -> str:
    """A text, such as an error of a library, without the passwords of the addresses in it.

    Args:
        text: any text.
        known: addresses, or words that may be addresses, that the text may hold: hidden whatever they look like, while
            an address that is not known is only found up to a space or a quotation mark.
    """
    for address in sorted(known, key=len, reverse=True):
        if address in text and (shown := without_password(address)) != address:
            text = text.replace(address, shown)
    return _WITHIN.sub(lambda found: without_password(found[0]) if _suspicious(found[0]) else found[0], text)


def _suspicious(address: str) -> bool:
    """Whether an address in a text may hold a password; a page of a manual and ``mqtt://USER@...`` do not."""
    _, _, rest = address.partition("://")
    return ":" in rest.rpartition("@")[0] or "=" in rest


def without_passwords(settings: T) -> T:
    """``settings`` with every address in them shown as ``without_password`` shows it."""
    return msgspec.convert(_hidden(msgspec.to_builtins(settings)), type(settings))


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return without_password(value)
    if isinstance(value, dict):
        return {name: _hidden(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(own) for own in value]
    return value
