"""HTML page of a fleet: one table that the browser sorts and filters, without any other file."""

from __future__ import annotations

import msgspec

from cachenet.cloud_server.fleet.fleet import Summary

#: Time between two requests of a served page for newer data, seconds.
REFRESH_S = 5


def page(summary: Summary, live: bool) -> str:
    """The page with its data. ``live``: whether it asks its server for newer data."""
    # Text of devices must not end the script element.
    data = msgspec.json.encode(summary).decode().replace("<", "\\u003c")
    return _PAGE.replace("REFRESH_MS", str(1000 * REFRESH_S if live else 0)).replace("DATA", data, 1)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Fleet</title>
<style>
:root { color-scheme: light dark; --line: #8884; --dim: #777; --bad: #c62828; --warn: #b26a00; --good: #2e7d32 }
@media (prefers-color-scheme: dark) { :root { --dim: #aaa; --bad: #ff7b72; --warn: #e3a84c; --good: #6fbf73 } }
body { margin: 0; padding: 16px; font: 14px/1.45 system-ui, sans-serif }
h1 { margin: 0 0 8px; font-size: 18px }
p { margin: 0 0 8px }
form { display: flex; flex-wrap: wrap; gap: 8px 16px; margin: 0 0 12px; align-items: center }
/* Rows are grids, because browsers skip the layout of grids that are out of sight, and not of table rows. */
table, caption, thead, tbody { display: block; min-width: 1300px }
caption { text-align: left; padding: 0 0 6px; color: var(--dim) }
tr { display: grid;
  grid-template-columns: 90px 116px minmax(200px, 1fr) 76px 80px 90px 104px 76px 134px 140px 94px 90px }
tbody tr { content-visibility: auto; contain-intrinsic-height: auto 28px; border-top: 1px solid var(--line) }
thead { position: sticky; top: 0; background: Canvas; z-index: 1 }
th { text-align: left; white-space: nowrap; padding: 0 }
th button { all: unset; padding: 6px 8px; cursor: pointer; font-weight: 600 }
th button:focus-visible { outline: 2px solid Highlight }
th[aria-sort=ascending] button::after { content: " \\25b2" }
th[aria-sort=descending] button::after { content: " \\25bc" }
td { padding: 3px 8px; overflow-wrap: anywhere }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
tbody tr { line-height: 22px }
tr.bad { box-shadow: inset 4px 0 var(--bad) }
tr.warn { box-shadow: inset 4px 0 var(--warn) }
.bad .findings, .error { color: var(--bad) }
.warn .findings { color: var(--warn) }
.dim { color: var(--dim) }
</style></head><body>
<h1>Fleet</h1>
<p id="counts" role="status"></p>
<p id="errors" class="error" role="alert"></p>
<div id="rollouts" role="status"></div>
<form>
<label>Search <input id="search" type="search" placeholder="device, version, finding"></label>
<label>Group <select id="group"></select></label>
<label><input id="findings" type="checkbox"> only with findings</label>
</form>
<table role="table" aria-labelledby="caption"><caption id="caption"></caption>
<thead role="rowgroup"><tr id="head" role="row"></tr></thead><tbody id="rows" role="rowgroup"></tbody></table>
<noscript>This page needs JavaScript; <code>cloud-server fleet</code> prints the same on a terminal.</noscript>
<script type="application/json" id="data">DATA</script>
<script>
"use strict"
const element = id => document.getElementById(id)
const fixed = number => number.toFixed(1)
const percent = share => fixed(100 * share) + "\\u202f%"
const recent = row => row.stats?.recent
// Heading, value to sort by, text, and class. Unknown values are last.
const columns = [
  ["Severity", row => row.severity, row => row.severity || "", "number"],
  ["Device", row => row.device, row => row.device, "name"],
  ["Findings", row => row.findings[0]?.text, row => row.findings.map(found => found.text).join("; "), "findings"],
  ["State", row => row.status.state, row => row.status.state, ""],
  ["Group", row => row.group || null, row => row.group, ""],
  ["Bundle", row => row.status.bundle || null, row => (row.status.bundle ?? "").slice(0, 8), ""],
  ["Update", row => row.status.update || null, row => (row.status.update ?? "").split(" ")[0], ""],
  ["Local", row => recent(row)?.frames ? recent(row).local : null,
    row => recent(row)?.frames ? percent(recent(row).local) : "", "number"],
  ["Error (at most)", row => row.stats?.error?.[0],
    row => row.stats?.error ? `${percent(row.stats.error[0])} (${percent(row.stats.error[2])})` : "", "number"],
  ["Latency (95 %)", row => recent(row)?.frames ? recent(row).latency_ms : null,
    row => recent(row)?.frames ? `${fixed(recent(row).latency_ms)} (${fixed(recent(row).latency_p95_ms)}) ms` : "",
    "number"],
  ["Answers/s", row => row.stats ? recent(row).frames / row.stats.period_s : null,
    row => row.stats ? fixed(recent(row).frames / row.stats.period_s) : "", "number"],
  ["Program", row => row.status.version, row => row.status.version, "dim"],
]
let fleet = JSON.parse(element("data").textContent)
const {compare: order} = new Intl.Collator("en", {numeric: true})
let sorted = 0, descending = true

function compare(a, b) {
  const [x, y] = [columns[sorted][1](a), columns[sorted][1](b)]
  if ((x ?? null) === null || (y ?? null) === null) return ((x ?? null) === null) - ((y ?? null) === null)
  const difference = typeof x === "string" ? order(x, y) : x - y
  return (descending ? -difference : difference) || order(a.device, b.device)
}
function shown(row) {
  const text = element("search").value.toLowerCase(), group = element("group").value
  return (!group || row.group === group) && (!element("findings").checked || row.severity > 0)
    && (!text || columns.some(column => String(column[2](row)).toLowerCase().includes(text)))
}
function drawRows() {
  const rows = fleet.rows.filter(shown).sort(compare), body = document.createElement("tbody")
  body.id = "rows"
  body.role = "rowgroup"  // the style of a table that is no table takes its roles away
  for (const row of rows) {
    const line = body.insertRow()
    line.role = "row"
    line.className = row.severity >= 80 ? "bad" : row.severity > 0 ? "warn" : ""
    for (const [heading, , text, kind] of columns) {
      const cell = line.insertCell()
      cell.role = "cell"
      cell.className = kind
      cell.textContent = text(row)
      if (heading === "Bundle") cell.title = row.status.bundle ?? ""
      if (heading === "Update") cell.title = row.status.update ?? ""
    }
  }
  element("rows").replaceWith(body)
  const direction = descending ? "descending" : "ascending"
  element("caption").textContent =
    `${rows.length} of ${fleet.devices} devices, sorted by ${columns[sorted][0].toLowerCase()}, ${direction}`
}
function rollout({bundle, stable, canary, state, reason, share, devices}) {
  const line = document.createElement("p")
  line.className = state === "undone" ? "error" : ""
  line.textContent = `Rollout of ${bundle}: ${state}${reason ? ` (${reason})` : ""}, `
    + `${percent(share)} of the devices ${devices}.`
  return [line, ...[[canary, "newer"], [stable, "catalogue's"]].map(([version, which]) => {
    const found = fleet.versions.find(one => one.version === version), text = document.createElement("p")
    const audits = found?.audits ? `, ${percent(found.wrong / found.audits)} of ${found.audits} audits wrong` : ""
    text.className = "dim"
    text.textContent = `${version.slice(0, 8)}, the ${which} version: ${found?.devices ?? 0} devices${audits}`
      + (found?.failed ? `, ${found.failed} could not update` : "") + (found?.errors ? `, ${found.errors} errors` : "")
    return text
  })]
}
function draw() {
  const states = Object.entries(fleet.states).map(([state, count]) => `${count} ${state}`).join(", ")
  const versions = fleet.versions.map(({version, devices}) => `${version.slice(0, 8)} on ${devices}`)
  const more = versions.length > 4 ? `, ${versions.length - 4} more` : ""
  element("counts").textContent = `${fleet.devices} devices: ${states || "none"}. `
    + `${fleet.with_findings} with findings. Versions: ${versions.slice(0, 4).join(", ") || "none"}${more}.`
  element("errors").textContent = fleet.errors.join("; ")
  element("rollouts").replaceChildren(...fleet.rollouts.flatMap(rollout))
  const groups = ["", ...new Set(fleet.rows.map(row => row.group).filter(Boolean))].sort(), select = element("group")
  if (groups.length !== select.options.length) {
    const chosen = select.value
    select.replaceChildren(...groups.map(group => new Option(group || "all", group, false, group === chosen)))
  }
  drawRows()
}
columns.forEach(([heading, , , kind], index) => {
  const cell = document.createElement("th"), button = document.createElement("button")
  cell.role = "columnheader"
  cell.className = kind
  button.type = "button"
  button.textContent = heading
  button.onclick = () => {
    descending = sorted === index ? !descending : kind === "number"
    sorted = index
    mark()
    drawRows()
  }
  cell.append(button)
  element("head").append(cell)
})
function mark() {
  [...element("head").cells].forEach((cell, index) => {
    if (index === sorted) cell.ariaSort = descending ? "descending" : "ascending"
    else cell.removeAttribute("aria-sort")
  })
}
document.forms[0].oninput = drawRows
document.forms[0].onsubmit = event => event.preventDefault()
mark()
draw()
if (REFRESH_MS) setInterval(async () => {
  try {
    const answer = await fetch("fleet.json")
    if (!answer.ok) throw new Error()
    fleet = await answer.json()
    draw()
  } catch {
    element("errors").textContent = "cloud-server fleet has ended; this page is no longer renewed"
  }
}, REFRESH_MS)
</script>
</body></html>
"""
