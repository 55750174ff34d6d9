"""The fleet page in a real browser, and over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from benchmarks.fleet_page import browser, in_browser, simulated
from cachenet.cloud_server.fleet.fleet import Fleet
from cachenet.cloud_server.fleet.page import page
from cachenet.cloud_server.fleet.web import serve
from cachenet.shared.transport import protocol

#: What the page shows, after each of four actions.
LOOK = """
const rows = () => [...document.querySelectorAll("#rows tr")].map(row => row.cells[1].textContent)
const severities = [...document.querySelectorAll("#rows tr")].map(row => +row.cells[0].textContent)
const found = {begun: rows(), severities}
const heads = document.querySelectorAll("th button")
heads[1].click()
found.by_name = rows()
found.sorted = [...document.querySelectorAll("th")].map(head => head.ariaSort)
heads[0].click()
document.getElementById("findings").click()
found.with_findings = rows()
document.getElementById("search").value = "failed"
document.forms[0].oninput()
found.search = rows()
found.caption = document.getElementById("caption").textContent
return found
"""


@pytest.fixture
def chromium() -> None:
    if not browser():
        pytest.skip("no Chromium; on Debian: apt-get install chromium")


@pytest.mark.slow
@pytest.mark.usefixtures("chromium")
def test_a_thousand_devices_are_sorted_by_severity_and_filtered_in_the_browser() -> None:
    summary = simulated(1000)
    found: dict[str, Any] = in_browser(page(summary, live=False), LOOK)["found"]
    assert found["begun"] == [row.device for row in summary.rows]
    assert found["severities"] == sorted(found["severities"], reverse=True)
    assert found["by_name"] == sorted(found["by_name"])
    assert [index for index, sort in enumerate(found["sorted"]) if sort] == [1]
    assert found["with_findings"] == [row.device for row in summary.rows if row.severity]
    failed = [row.device for row in summary.rows if row.status.update.startswith("failed") and row.severity]
    assert found["search"] == failed
    assert found["caption"].startswith(f"{len(failed)} of 1000 devices")


@pytest.mark.slow
@pytest.mark.usefixtures("chromium")
def test_text_of_a_device_is_no_html() -> None:
    fleet = Fleet(lambda: 0.0)
    bad = "failed (</script><img src=x onerror=window.attacked=1>)"
    fleet.receive("cachenet/2/a/status", protocol.describe(protocol.Status("online", "</script>", "", (), bad)))
    work = "await frames(3); return [!!window.attacked, document.querySelectorAll('img').length, fleet.rows.length]"
    assert in_browser(page(fleet.summary(), live=False), work)["found"] == [False, 0, 1]


def test_the_page_and_its_data_are_served_under_own_names_alone() -> None:
    summary = simulated(3)
    with serve(lambda: summary, "127.0.0.1", 0) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            assert b"<table" in answer.read()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/fleet.json", timeout=5) as answer:
            assert json.load(answer)["devices"] == 3
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/other", timeout=5)
        foreign = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "attacker.example"})
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(foreign, timeout=5)
