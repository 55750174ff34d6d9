"""Addresses that are shown: host and port, and no password wherever a camera takes one."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cachenet.edge_agent.settings import CameraTable, Settings
from cachenet.shared.transport.addresses import hide, without_password, without_passwords

schemes = st.sampled_from(["rtsp", "rtsps", "RTSP", "http", "https", "rtmp", "mqtt", "mqtts", "srt"])
hosts = st.sampled_from(["camera.example", "10.0.0.4", "[fe80::1]", "door"])
ports = st.sampled_from(["", ":1", ":554", ":65535"])
#: Of letters that neither a host, a port nor what is shown instead of a password has.
users = st.text("uvw", max_size=3)
plain = st.text("ABCZ$!*+~,;=&% é漢", min_size=1, max_size=12)
passwords = st.text("ABCZ$!*+~,;=&% é漢@/?#:", min_size=1, max_size=12)


@given(schemes, users, passwords, hosts, ports, st.sampled_from(["", "/", "/stream1", "/live?channel=1"]))
def test_a_password_before_the_host_is_hidden(
    scheme: str, user: str, password: str, host: str, port: str, path: str
) -> None:
    shown = without_password(f"{scheme}://{user}:{password}@{host}{port}{path}")
    assert shown.startswith(f"{scheme}://")
    assert not set(shown.removeprefix(f"{scheme}://")) & set("ABCZ$!*+~,;=&% é漢")
    if not set("@/?#") & set(password):
        assert shown == f"{scheme}://{host}{port}" + ("/..." if path.strip("/") else "")


@given(
    schemes,
    hosts,
    ports,
    passwords,
    st.sampled_from(
        [
            "/user=admin_password={}_channel=1.sdp",
            "/?user=a&password={}",
            "?user=a&password={}",
            "/0/admin:{}/main",
            "/{}",
            "#{}",
        ]
    ),
)
def test_a_password_after_the_host_is_hidden_and_the_host_shown(
    scheme: str, host: str, port: str, password: str, form: str
) -> None:
    shown = without_password(f"{scheme}://{host}{port}{form.format(password)}")
    assert shown.startswith(f"{scheme}://{host}")
    if "@" not in password:
        assert shown.removesuffix("/...") == f"{scheme}://{host}{port}"
    assert not set(shown.removeprefix(f"{scheme}://")) & set("ABCZ$!*+~,;=&% é漢")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://u:se/cret@host:554/x", "rtsp://host:554/..."),
        ("rtsp://u:s@cret@host:554/x", "rtsp://host:554/..."),
        ("rtsp://u:s@c/ret@host:554/x", "rtsp://..."),
        ("rtsp://u:12/34@host:554/x", "rtsp://u/..."),
        ("rtsp:/u:secret@host/x", "rtsp://host/..."),
        ("u:secret@host/x", "...@host/..."),
        ("mqtts://cam1@broker.example:8883", "mqtts://cam1@broker.example:8883"),
        ("mqtts://cam1:secret@broker.example", "mqtts://broker.example"),
        ("rtsp://token@host", "rtsp://host"),
        ("//u:secret@host/x", "...@host/..."),
        (" rtsp://u:secret@host/x", "rtsp://host/..."),
        ("rtsp//u:secret@host/x", "rtsp://host/..."),
        ("rtsp;//u:secret@host/x", "rtsp://host/..."),
        ("10.0.0.4/video.cgi?user=admin&pwd=secret", "10.0.0.4/..."),
        ("camera:rtsp://u:secret@host", "camera:rtsp://host"),
    ],
)
def test_every_possible_password_of_an_ambiguous_address_is_hidden(address: str, shown: str) -> None:
    assert without_password(address) == shown
    assert without_password(shown) == shown, "what is shown stays as it is"


@pytest.mark.parametrize(
    "name",
    ["camera:0", "camera:/dev/v4l/by-id/usb-a:b@c", "pipe:640x480:bgr24", "picamera:1", "2026-11-28T10:20:30.mp4",
     "a b/clip@2x.mp4", "/srv/u:p@x.mp4", "", "embedded"],
)  # fmt: skip
def test_other_sources_are_shown_unchanged(name: str) -> None:
    assert without_password(name) == name


@given(schemes, plain, plain)
def test_a_text_around_an_address_stays(scheme: str, before: str, password: str) -> None:
    address = f"{scheme}://admin:{password}@door/x"
    assume(password not in before)
    shown = hide(f"{before}: {address!r} failed", [address])
    assert shown == f"{before}: '{scheme}://door/...' failed"


def test_an_unknown_address_in_a_text_is_hidden_and_a_web_page_is_not() -> None:
    assert hide("cannot open rtsp://a:secret@b/c, retry") == "cannot open rtsp://b/... retry"
    assert hide("GET 'http://h:80/x?password=secret'") == "GET 'http://h:80/...'"
    text = "write --broker mqtts://USER@... as https://example.org/broker#users says"
    assert hide(text) == text


def test_addresses_in_settings_are_hidden_and_other_values_stay() -> None:
    tables = (CameraTable("a", "rtsp://u:secret@h/x", fps=2.0), CameraTable("b", "camera:0"))
    given = Settings(source="http://h/?p=secret", broker="mqtts://cam@h", store="/srv/store", camera=tables)
    shown = without_passwords(given)
    assert "secret" not in repr(shown)
    assert (shown.source, shown.broker, shown.store) == ("http://h/...", "mqtts://cam@h", "/srv/store")
    assert shown.camera == (CameraTable("a", "rtsp://h/...", fps=2.0), CameraTable("b", "camera:0"))
    assert shown.levels == given.levels
