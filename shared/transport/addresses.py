"""Network addresses for display: without any part that may hold a password."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

#: Replaces a part that is not shown.
HIDDEN = "..."

#: A scheme and the rest. FFmpeg and OpenCV accept capitals.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
#: A scheme with a mistake in the colon and two slashes after it.
_MISTYPED = re.compile(
    r"(rtsps?|rtmp[ste]*|https?|mqtts?|srt|udp|tcp)(?::/?|;/{0,2}|//)(?!/)(.*)", re.DOTALL | re.IGNORECASE
)
#: An address without a scheme, but with a user and a password.
_WITHOUT_SCHEME = re.compile(r"(?!camera:|picamera:|pipe:)(?:[^/:@\s]+|//[^/:@\s]+):.*@.", re.DOTALL | re.IGNORECASE)
#: A password or token in a query.
_QUERY = re.compile(r"(pass\w*|pwd|pw|token|auth\w*|secret)=", re.IGNORECASE)
#: A source of another kind, and the rest.
_KIND = re.compile(r"(camera|picamera|pipe):(.*)", re.DOTALL)
#: A host name, IPv4 or IPv6 address, and a port.
_HOST = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(:[0-9]{1,5})?")
#: An address within a text, up to a space or a quotation mark.
_WITHIN = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s'"]+""")


def without_password(address: str) -> str:
    """Scheme, host and port of ``address``, as in ``rtsp://10.0.0.4:554/...``.

    Cameras take passwords before the ``@``, in the path (``/user=admin_password=S_channel=1.sdp``, ``/0/admin:S/main``
    or a token) and in the query; all of these are left out. The user of a broker without a password stays, because it
    names the device. The host of an ambiguous address, such as ``rtsp://u:a@b/c@d``, is left out. Other sources (a
    file, ``camera:0``) are returned unchanged.

    Example:
        >>> without_password("rtsp://admin:secret@10.0.0.4:554/main")
        'rtsp://10.0.0.4:554/...'
    """
    stripped = address.strip()
    if (found := _SCHEME.fullmatch(stripped) or _MISTYPED.fullmatch(stripped)) is not None:
        scheme, rest = found.groups()
        return f"{scheme}://{_shown_host(scheme.lower(), rest)}"
    if (found := _KIND.fullmatch(stripped)) is not None:
        return f"{found[1]}:{without_password(found[2])}"
    if _WITHOUT_SCHEME.match(stripped):
        return f"{HIDDEN}@{_shown_host('', stripped.lstrip('/'))}"
    return _shown_host("", stripped) if _QUERY.search(stripped) else address


def _shown_host(scheme: str, rest: str) -> str:
    """The part of an address after ``//`` that may be shown."""
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    after = rest[len(authority) :]
    more = f"/{HIDDEN}" if after.strip("/") else ""
    if "@" not in after:
        user, at, host = authority.rpartition("@")
        shown = host if _HOST.fullmatch(host) else HIDDEN
        named = at and scheme in ("mqtt", "mqtts") and re.fullmatch(r"[\w.%-]+", user)
        return (f"{user}@" if named else "") + shown + more
    # The password has an unescaped slash, or the path has an @.
    if "@" in authority:
        return HIDDEN
    if (found := _HOST.fullmatch(authority)) is not None:
        # Either the host and port, or a user and the first digits of a password: show the name alone.
        return f"{found[1]}/{HIDDEN}"
    host = re.split(r"[/?#\\]", after.partition("@")[2], maxsplit=1)[0]
    if after.count("@") == 1 and _HOST.fullmatch(host):
        return f"{host}/{HIDDEN}"
    return HIDDEN


def hide(text: str, known: Iterable[str] = ()) -> str:
    """A text, such as an error of a library, with its addresses shown without passwords.

    Args:
        known: Words that may be addresses in the text. Other addresses are found up to a space or a quotation mark.
    """
    for address in sorted(known, key=len, reverse=True):
        if address in text and (shown := without_password(address)) != address:
            text = text.replace(address, shown)
    return _WITHIN.sub(lambda found: without_password(found[0]) if _suspicious(found[0]) else found[0], text)


def _suspicious(address: str) -> bool:
    """Whether an address in a text may hold a password; a web page and ``mqtt://USER@...`` do not."""
    _, _, rest = address.partition("://")
    return ":" in rest.rpartition("@")[0] or "=" in rest


def without_passwords(settings: T) -> T:
    """``settings`` with ``without_password`` applied to every text."""
    return msgspec.convert(_hidden(msgspec.to_builtins(settings)), type(settings))


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return without_password(value)
    if isinstance(value, dict):
        return {name: _hidden(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(own) for own in value]
    return value
