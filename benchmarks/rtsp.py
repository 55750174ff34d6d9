"""A network camera: a real RTSP server, GStreamer's, that hands on what ffmpeg sends it. It can be killed and frozen.

The server runs with the system's Python, for which Debian packages GStreamer.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Sequence

from cachenet.simulator.world.processes import answers, free_port

#: What it takes, as Debian calls it; and what it takes to read one with GStreamer.
PACKAGES = "ffmpeg python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good"
READING = "gstreamer1.0-tools gstreamer1.0-libav"
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


def gstreamer(url: str) -> list[str]:
    """A command that writes an RTSP camera's pictures, in bgr24, each as soon as it is there."""
    return [
        *("gst-launch-1.0", "-q", "rtspsrc", f"location={url}", "protocols=tcp", "latency=0"),
        *("!", "rtph264depay", "!", "avdec_h264", "max-threads=1", "!", "videoconvert", "!", "video/x-raw,format=BGR"),
        *("!", "fdsink"),
    ]


def missing(gstreamer: bool = False) -> str:
    """What has to be installed before there can be such a camera, and be read by GStreamer; empty if nothing has."""
    there = shutil.which("ffmpeg") and shutil.which(_PYTHON)
    if not there or subprocess.run([_PYTHON, "-c", _CHECK], capture_output=True, check=False).returncode != 0:
        return f"needs an RTSP server: apt-get install {PACKAGES}"
    if gstreamer and shutil.which("gst-launch-1.0") is None:
        return f"needs GStreamer's tools: apt-get install {READING}"
    return ""


class RtspCamera:
    """Pictures at ``url``, 640x480, 10 a second, of which each ``gop``-th is a whole one."""

    def __init__(self, gop: int = 10, pictures: Sequence[str] | None = None) -> None:
        """``pictures``: a command that writes them, in bgr24; without, they are FFmpeg's test picture."""
        self._port, rtp = free_port(), free_port()
        self.url = f"rtsp://127.0.0.1:{self._port}/camera"
        self._command = [_PYTHON, "-c", _SERVE, str(self._port), str(rtp)]
        self._server: subprocess.Popen[bytes] | None = None
        self._feeds: list[subprocess.Popen[bytes]] = []
        what = ["-re", "-f", "lavfi", "-i", "testsrc=size=640x480:rate=10"]
        if pictures is not None:
            self._feeds.append(subprocess.Popen(pictures, stdout=subprocess.PIPE))
            what = [
                "-fflags",
                "nobuffer",
                "-f",
                "rawvideo",
                "-pix_fmt",
                "bgr24",
                "-s",
                "640x480",
                "-r",
                "10",
                "-i",
                "-",
            ]
        self._feeds.append(
            subprocess.Popen(
                [
                    *("ffmpeg", "-nostdin", "-loglevel", "quiet", *what, "-c:v", "libx264", "-preset", "ultrafast"),
                    # One thread, or there are several slices, which this relay takes for pictures of their own.
                    *("-tune", "zerolatency", "-threads", "1", "-g", str(gop), "-pix_fmt", "yuv420p"),
                    *("-f", "rtp", f"rtp://127.0.0.1:{rtp}"),
                ],
                stdin=self._feeds[0].stdout if self._feeds else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
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
        for feed in self._feeds:
            feed.kill()
            feed.wait()
