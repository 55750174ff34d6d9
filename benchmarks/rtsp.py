"""A network camera that can be killed and frozen: GStreamer's RTSP server, fed by ffmpeg.

The server runs with the system's Python, for which Debian packages GStreamer.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Sequence

from cachenet.simulator.world.processes import free_port, is_listening

#: Debian packages of the camera.
PACKAGES = "ffmpeg python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good"
#: Debian packages to read a camera with GStreamer.
_READER_PACKAGES = "gstreamer1.0-tools gstreamer1.0-libav"
_PYTHON = "/usr/bin/python3"
#: Longest start of the server, seconds.
_START_TIMEOUT_S = 20.0
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


def gstreamer(url: str) -> list[str]:
    """A command that writes an RTSP camera's pictures in bgr24, each without delay."""
    return [
        *("gst-launch-1.0", "-q", "rtspsrc", f"location={url}", "protocols=tcp", "latency=0"),
        *("!", "rtph264depay", "!", "avdec_h264", "max-threads=1", "!", "videoconvert", "!", "video/x-raw,format=BGR"),
        *("!", "fdsink"),
    ]


def missing(gstreamer: bool = False) -> str:
    """Error message about missing packages; empty if none is missing. ``gstreamer``: include those of the reader."""
    programs = shutil.which("ffmpeg") and shutil.which(_PYTHON)
    if not programs or subprocess.run([_PYTHON, "-c", _CHECK], capture_output=True, check=False).returncode != 0:
        return f"needs an RTSP server: apt-get install {PACKAGES}"
    if gstreamer and shutil.which("gst-launch-1.0") is None:
        return f"needs GStreamer's tools: apt-get install {_READER_PACKAGES}"
    return ""


class RtspCamera:
    """A camera at ``url``: 640x480, 10 frames a second."""

    def __init__(self, gop: int = 10, pictures: Sequence[str] | None = None) -> None:
        """Start the camera.

        Args:
            gop: Distance of key frames, frames.
            pictures: Command that writes pictures in bgr24; None: FFmpeg's test picture.
        """
        self._port, rtp = free_port(), free_port()
        self.url = f"rtsp://127.0.0.1:{self._port}/camera"
        self._command = [_PYTHON, "-c", _SERVE, str(self._port), str(rtp)]
        self._server: subprocess.Popen[bytes] | None = None
        self._feeds: list[subprocess.Popen[bytes]] = []
        source = ["-re", "-f", "lavfi", "-i", "testsrc=size=640x480:rate=10"]
        if pictures is not None:
            self._feeds.append(subprocess.Popen(pictures, stdout=subprocess.PIPE))
            source = [
                *("-fflags", "nobuffer", "-f", "rawvideo", "-pix_fmt", "bgr24"),
                *("-s", "640x480", "-r", "10", "-i", "-"),
            ]
        self._feeds.append(
            subprocess.Popen(
                [
                    *("ffmpeg", "-nostdin", "-loglevel", "quiet", *source, "-c:v", "libx264", "-preset", "ultrafast"),
                    # One thread: with several slices a picture this relay would count each slice as a picture.
                    *("-tune", "zerolatency", "-threads", "1", "-g", str(gop), "-pix_fmt", "yuv420p"),
                    *("-f", "rtp", f"rtp://127.0.0.1:{rtp}"),
                ],
                stdin=self._feeds[0].stdout if self._feeds else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        )
        self.start()

    def start(self) -> None:
        """Start the server and wait until it listens."""
        self._server = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not is_listening(self._port):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the RTSP server does not start")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server with SIGKILL."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def freeze(self) -> None:
        """Stop the server; its connections stay open."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the server."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the server and its feeds."""
        self.kill()
        for feed in self._feeds:
            feed.kill()
            feed.wait()
