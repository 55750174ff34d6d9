"""What an operator's tools read."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from cachenet.shared.command.metrics_endpoint import serve


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_is_200_or_503_with_a_reason() -> None:
    why = ""
    with serve(CollectorRegistry(), lambda: why, "127.0.0.1", 0) as port:
        status, body = get(port, "/health")
        assert (status, json.loads(body)) == (200, {"ok": True})
        why = "no broker"
        status, body = get(port, "/health")
        assert (status, json.loads(body)) == (503, {"ok": False, "why": "no broker"})
        why = ""
        assert get(port, "/health?probe=1")[0] == 200


def test_metrics_are_in_prometheus_format_and_other_paths_are_not_found() -> None:
    registry = CollectorRegistry()
    Counter("seen", "Things seen.", registry=registry).inc(3)
    with serve(registry, lambda: "", "127.0.0.1", 0) as port:
        status, body = get(port, "/metrics")
        values = {
            sample.name: sample.value for family in text_string_to_metric_families(body) for sample in family.samples
        }
        assert (status, values["seen_total"]) == (200, 3)
        assert get(port, "/")[0] == 404
        assert get(port, "/metrics/../etc")[0] == 404


def test_a_head_request_gets_the_status_and_no_body() -> None:
    with serve(CollectorRegistry(), lambda: "no broker", "127.0.0.1", 0) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("HEAD", "/health")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (503, b"")
