"""A network camera: a real RTSP server, GStreamer's, that hands on what ffmpeg sends it. It can be killed and frozen.

The server runs with the system's Python, for which Debian packages GStreamer.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time

from simulator.processes import answers, free_port

#: What it takes, as Debian calls it.
PACKAGES = "ffmpeg python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good"
_PYTHON = "/usr/bin/python3"
_BOUND_S = 20.0
_CHECK = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(Gst.ElementFactory.find(name) for name in ("udpsrc", "rtph264depay", "rtph264pay"))
"""
_SERVE = """
import sys
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server, factory = GstRtspServer.RTSPServer(), GstRtspServer.RTSPMediaFactory()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory.set_launch(
    f"( udpsrc address=127.0.0.1 port={sys.argv[2]} "
    'caps="application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96" '
    "! rtph264depay ! rtph264pay name=pay0 pt=96 config-interval=-1 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
GLib.MainLoop().run()
"""


def missing() -> str:
    """What has to be installed before there can be such a camera; empty if nothing has."""
    there = shutil.which("ffmpeg") and shutil.which(_PYTHON)
    if there and subprocess.run([_PYTHON, "-c", _CHECK], capture_output=True, check=False).returncode == 0:
        return ""
    return f"needs an RTSP server: apt-get install {PACKAGES}"


class RtspCamera:
    """Pictures of ``size`` at ``url``, ``fps`` a second, of which each ``gop``-th is a whole one."""

    def __init__(self, fps: int = 10, size: str = "640x480", gop: int = 10, picture: str = "testsrc") -> None:
        self._port, rtp = free_port(), free_port()
        self.url = f"rtsp://127.0.0.1:{self._port}/camera"
        self._command = [_PYTHON, "-c", _SERVE, str(self._port), str(rtp)]
        self._server: subprocess.Popen[bytes] | None = None
        self._feed = subprocess.Popen(
            [
                *("ffmpeg", "-nostdin", "-loglevel", "quiet", "-re", "-f", "lavfi"),
                *("-i", f"{picture}=size={size}:rate={fps}", "-c:v", "libx264", "-preset", "ultrafast"),
                *("-tune", "zerolatency", "-g", str(gop), "-pix_fmt", "yuv420p"),
                *("-f", "rtp", f"rtp://127.0.0.1:{rtp}"),
            ],
            stdout=subprocess.DEVNULL,
        )
        self.start()

    def start(self) -> None:
        """Have the server up and listening."""
        self._server = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _BOUND_S
        while not answers(self._port):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the RTSP server does not start")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server without a chance to say goodbye."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def freeze(self) -> None:
        """Let the server do nothing any more, and its connections stay as they are."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self._feed.kill()
        self._feed.wait()
