"""Time in which headless Chromium draws the fleet page of simulated devices.

    python -m benchmarks.fleet_page --devices 1000 --json

``drawn_ms`` is the time from the start of the navigation to the second frame after the table was built, by the
browser's own clock; the median of the rounds. ``redrawn_ms``: the same after a click on a column. ``empty_ms``: that of
the same page without devices, in turn with it, which is what the browser and the machine take by themselves.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import statistics
import subprocess
import tempfile
from http import HTTPStatus
from typing import Annotated, Any

import numpy as np
import typer

from cachenet.cloud_server.fleet.fleet import Fleet, Summary
from cachenet.cloud_server.fleet.page import page
from cachenet.shared.command.http_server import Handler, HttpServer
from cachenet.shared.transport import protocol
from cachenet.shared.transport.fleet import Recent, Stats

#: Bound on one round, seconds.
_TIMEOUT_S = 60.0
#: Sends a result of the page to its server.
_REPORT = """
<script>
const frames = count => new Promise(done => {
  const next = () => count-- ? requestAnimationFrame(next) : done()
  next()
})
const report = async work => {
  await frames(2)
  const drawn = performance.now()
  const found = await work()
  fetch("/found", {method: "POST", body: JSON.stringify({drawn, found})})
}
report(async () => { WORK })
</script>
"""
#: A click on the column of the error.
_CLICK = """
const begun = performance.now()
document.querySelectorAll("th button")[8].click()
await frames(2)
return performance.now() - begun
"""


def simulated(devices: int, seed: int = 0) -> Summary:
    """A fleet of which about a tenth has something wrong."""
    rng = np.random.default_rng(seed)
    fleet = Fleet(lambda: 0.0, [(f"site-{site}", f"cam{site}???") for site in range(4)])
    for number in range(devices):
        name, kind = f"cam{number:04d}", rng.random()
        state: Any = "offline" if kind < 0.03 else "stopped" if kind < 0.04 else "online"
        update = "failed (base gives scores that are not finite)" if 0.04 < kind < 0.06 else "committed"
        version = f"{'ab' * 32 if 0.1 < kind < 0.2 else 'cd' * 32}"
        fleet.receive(
            protocol.topic(name, "status"), protocol.describe(protocol.Status(state, "0.1.0", version, (), update))
        )
        error = float(rng.beta(2, 150)) if not 0.06 < kind < 0.08 else 0.09
        recent = Recent(300, float(rng.beta(9, 1)), 0.3 if 0.08 < kind < 0.1 else 0.0, float(rng.gamma(4)), 60.0)
        stats = Stats(
            version, 1e4, 60.0, {"base": 9000, "cloud": 900}, 1000, 0, 200, 200 * error, 0,
            (error, error / 2, 2 * error), 0.02, recent,
        )  # fmt: skip
        fleet.receive(protocol.topic(name, "stats"), protocol.describe(stats))
    return fleet.summary()


def browser() -> str:
    """Path of Chromium; empty if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


def in_browser(html: str, work: str) -> dict[str, Any]:
    """Open a page in headless Chromium, run ``work`` (the body of an asynchronous function) once it is drawn.

    Returns:
        ``drawn``: see the module; ``found``: what ``work`` returns.
    """
    results: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    body = html.replace("</body>", _REPORT.replace("WORK", work) + "</body>").encode()

    class PageHandler(Handler):
        def do_GET(self) -> None:  # noqa: N802 - name of the base class
            self._respond(body if self.path == "/" else b"")

        def do_POST(self) -> None:  # noqa: N802 - name of the base class
            results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._respond(b"")

        def _respond(self, data: bytes) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    flags = ["--headless", "--disable-gpu", "--no-first-run", "--window-size=1400,900"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        HttpServer(("127.0.0.1", 0), PageHandler, 8).serving("page") as port,
    ):
        command = [browser(), *flags, f"--user-data-dir={profile}", "--remote-debugging-port=0"]
        process = subprocess.Popen([*command, f"http://127.0.0.1:{port}/"], stderr=subprocess.DEVNULL)
        try:
            return results.get(timeout=_TIMEOUT_S)
        finally:
            process.terminate()
            process.wait(10)


def main(
    devices: Annotated[int, typer.Option(min=1, help="Number of simulated devices.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; the median counts.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw the page of simulated devices in headless Chromium."""
    if not browser():
        typer.echo("this needs Chromium; on Debian: apt-get install chromium", err=True)
        raise typer.Exit(2)
    html, without = page(simulated(devices), live=False), page(simulated(0), live=False)
    empty, found = [], []
    for _ in range(rounds):
        empty.append(in_browser(without, "return 0")["drawn"])
        found.append(in_browser(html, _CLICK))
    result = {
        "devices": devices,
        "page_kB": round(len(html.encode()) / 1e3),
        "drawn_ms": round(statistics.median(one["drawn"] for one in found)),
        "empty_ms": round(statistics.median(empty)),
        "redrawn_ms": round(statistics.median(one["found"] for one in found)),
    }
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo("\n".join(f"{name:<12} {value}" for name, value in result.items()))


if __name__ == "__main__":
    typer.run(main)
