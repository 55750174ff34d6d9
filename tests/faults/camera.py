"""A network camera on the loopback interface, MJPEG over HTTP, that can vanish."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import cv2
import numpy as np

from cachenet.simulator.world.processes import free_port

_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=frame\r\n\r\n"


class Camera:
    """Serves pictures at ``fps``, each shown for a second."""

    def __init__(self, pictures: list[np.ndarray], fps: float) -> None:
        """``pictures``: BGR ``(height, width, 3)`` uint8."""
        self.port = free_port()
        self._parts = [_part(picture) for picture in pictures]
        self._fps, self._gone = fps, threading.Event()
        self._socket = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/video"

    def vanish(self) -> None:
        """Reset all connections, and refuse new ones until ``come_back``."""
        self._gone.set()

    def come_back(self) -> None:
        self._gone.clear()

    def close(self) -> None:
        """End for good."""
        self._gone.set()
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                if self._gone.is_set():
                    client.close()
                    continue
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            client.sendall(_HEAD)
            number = 0
            while not self._gone.is_set():
                client.sendall(self._parts[number // round(self._fps) % len(self._parts)])
                number += 1
                time.sleep(1 / self._fps)


def _part(picture: np.ndarray) -> bytes:
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data)
