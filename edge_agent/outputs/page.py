"""HTML page of the preview: the cameras' pictures and a legend of the levels."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from cachenet.edge_agent.outputs.drawing import COLOURS

#: Largest number of cameras that are streamed. Browsers open six connections to a host; more cameras are snapshots.
_MAX_STREAMS = 5
#: Age from which a picture is shown as stale, seconds.
_STALE_S = 5


def page(title: str, cameras: Sequence[str]) -> str:
    """HTML page. ``title``: name of the device; ``cameras``: names, empty for the only camera."""
    streamed = len(cameras) <= _MAX_STREAMS
    shown = "\n".join(_figure(camera, streamed) for camera in cameras)
    levels = "\n".join(f'<li style="--c:{colour}">{level}</li>' for level, colour in COLOURS.items())
    refresh = "" if streamed else '<meta http-equiv="refresh" content="2">'
    return _PAGE.format(title=escape(title), refresh=refresh, shown=shown, levels=levels, stale=_STALE_S)


def _figure(camera: str, streamed: bool) -> str:
    query = f"?camera={quote(camera)}" if camera else ""
    picture = f'<img src="/{"stream.mjpg" if streamed else "snapshot.jpg"}{query}" alt="">'
    caption = f"<figcaption>{escape(camera)} <b></b></figcaption>"
    why = f'<details data-why="/why.txt{query}"><summary>Why this answer?</summary><pre></pre></details>'
    return f'<figure data-camera="{escape(camera)}"><a href="/{query}">{picture}</a>{caption}{why}</figure>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{refresh}
<title>{title}</title>
<style>
body {{ margin: 0; padding: 16px; background: #111; color: #eee; font: 15px/1.4 system-ui, sans-serif }}
h1 {{ margin: 0 0 12px; font-size: 18px; font-weight: 600 }}
main {{ display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start }}
figure {{ margin: 0; max-width: 100% }}
img {{ display: block; max-width: 100%; min-width: 320px; min-height: 200px; border-radius: 6px; background: #181818 }}
figcaption {{ padding: 4px 2px; color: #aaa }}
details {{ color: #aaa }}
summary {{ cursor: pointer }}
pre {{ margin: 6px 0; max-width: 84ch; white-space: pre-wrap; color: #ddd; font: 12px/1.4 ui-monospace, monospace }}
.still img {{ filter: grayscale(1) brightness(.5) }}
ul {{ display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 12px 0 0; padding: 0; list-style: none; color: #aaa }}
li::before {{ content: ""; display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 2px;
  background: var(--c) }}
</style></head><body>
<h1>{title}</h1>
<main>
{shown}
</main>
<ul>
{levels}
</ul>
<script>
// The page cannot tell an ended stream from a still picture, so it asks for the age of the pictures.
setInterval(async () => {{
  let ages = {{}}, reason = "no frame yet"
  try {{ ages = await (await fetch("/state.json")).json() }} catch {{ reason = "the agent is gone" }}
  for (const details of document.querySelectorAll("details[open]")) {{
    try {{ details.querySelector("pre").textContent = await (await fetch(details.dataset.why)).text() }} catch {{ }}
  }}
  for (const figure of document.querySelectorAll("figure")) {{
    const age = ages[figure.dataset.camera] ?? Infinity, picture = figure.querySelector("img")
    if (figure.lost && age < Infinity) picture.src = picture.src
    figure.lost = age === Infinity
    figure.classList.toggle("still", age > {stale})
    figure.querySelector("b").textContent =
      age <= {stale} ? "" : figure.lost ? reason : `no frame for ${{Math.round(age)}} s`
  }}
}}, 1000)
</script>
</body></html>
"""
