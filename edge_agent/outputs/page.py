"""The page of the preview: the cameras' pictures, and what their colours mean."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from cachenet.edge_agent.outputs.drawing import COLOURS

#: A browser opens six connections to one host: of more cameras than this it shows still pictures.
_MOVING = 5
#: A picture that is older than so many seconds says so.
_STILL_S = 5


def page(title: str, cameras: Sequence[str]) -> str:
    """HTML. ``title``: the device's name; a camera that has none is the only one."""
    moving = len(cameras) <= _MOVING
    shown = "\n".join(_figure(camera, moving) for camera in cameras)
    levels = "\n".join(f'<li style="--c:{colour}">{level}</li>' for level, colour in COLOURS.items())
    refresh = "" if moving else '<meta http-equiv="refresh" content="2">'
    return _PAGE.format(title=escape(title), refresh=refresh, shown=shown, levels=levels, still=_STILL_S)


def _figure(camera: str, moving: bool) -> str:
    which = f"?camera={quote(camera)}" if camera else ""
    picture = f'<img src="/{"stream.mjpg" if moving else "snapshot.jpg"}{which}" alt="">'
    caption = f"<figcaption>{escape(camera)} <b></b></figcaption>"
    return f'<figure data-camera="{escape(camera)}"><a href="/{which}">{picture}</a>{caption}</figure>'


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
// A stream that has ended looks to a page like one that stands still: ask how old the pictures are.
setInterval(async () => {{
  let ages = {{}}, why = "no frame yet"
  try {{ ages = await (await fetch("/state.json")).json() }} catch {{ why = "the agent is gone" }}
  for (const figure of document.querySelectorAll("figure")) {{
    const age = ages[figure.dataset.camera] ?? Infinity, picture = figure.querySelector("img")
    if (figure.lost && age < Infinity) picture.src = picture.src
    figure.lost = age === Infinity
    figure.classList.toggle("still", age > {still})
    figure.querySelector("b").textContent =
      age <= {still} ? "" : figure.lost ? why : `no frame for ${{Math.round(age)}} s`
  }}
}}, 1000)
</script>
</body></html>
"""
