"""Time of a full model on a V2 server, against the bare HTTP call of the same tensor.

The server must run the bundle's full model already, for instance with ``python -m tests.mlserver cifar10 8000``. Both
sides take turns, so that the load of the machine falls on both. ``alone``: one request at a time; ``together``: as many
as ``cloud-server run`` sends by default.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import msgspec
import numpy as np

from cachenet.cloud_server.serving.full_model import load_full
from cachenet.cloud_server.serving.v2 import V2Model
from cachenet.cloud_server.settings import Settings
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import diagnostics
from cachenet.shared.inference.engine import Batch, Session
from cachenet.shared.inference.image import crop, encode, preprocessor


class HttpCall:
    """The HTTP call that a V2 request cannot do without: the finished bytes out, the answer's bytes in."""

    def __init__(self, url: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        self._host, self._path, self._body, self._headers = urlsplit(url).netloc, path, body, headers
        self._idle: list[http.client.HTTPConnection] = []

    def __call__(self) -> None:
        reused = bool(self._idle)
        connection = self._idle.pop() if reused else http.client.HTTPConnection(self._host)
        try:
            connection.request("POST", self._path, self._body, self._headers)
            assert connection.getresponse().read()
        except (ConnectionError, http.client.HTTPException):
            if not reused:
                raise
            self()  # the server had closed the idle connection
        else:
            self._idle.append(connection)


def http_call(url: str, remote: V2Model, batch: Batch) -> HttpCall:
    """The call of ``remote`` for ``batch``, with the bytes that ``remote`` sends."""
    with mock.patch.object(remote, "_exchange", wraps=remote._exchange) as exchange:
        remote.run_all(batch)
    _, path, body, headers, _ = exchange.call_args.args
    return HttpCall(url, path, body, headers)


def milliseconds(call: Callable[[], object], concurrency: int, pool: ThreadPoolExecutor) -> float:
    """Time of ``concurrency`` calls at a time, milliseconds."""
    started = time.perf_counter()
    for pending in [pool.submit(call) for _ in range(concurrency)]:
        pending.result()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--bundle", default="cifar10")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle(zoo.find(options.bundle))
    name = bundle.manifest.only("full")
    spec = bundle.manifest.models[name].input
    picture = encode(crop(diagnostics.golden(), spec))[1]
    batch = preprocessor(spec)(crop(diagnostics.golden(), spec))
    remote, local = V2Model(options.url, bundle), Session(bundle.path(name), "cpu")
    equal = all(np.array_equal(a, b) for a, b in zip(remote.run_all(batch), local.run_all(batch), strict=True))
    full: Any = load_full(bundle, "cpu", 1, remote=V2Model(options.url, bundle))
    ready = full.prepare(picture)
    calls: dict[str, Callable[[], object]] = {
        "bare": http_call(options.url, remote, batch),
        "executor": lambda: full.run([ready], [None]),
        "with decoding": lambda: full.run([full.prepare(picture)], [None]),
    }
    result: dict[str, object] = {"bundle": options.bundle, "equal bit for bit": equal}
    with ThreadPoolExecutor(Settings().max_batch) as pool:
        for kind, concurrency in (("alone", 1), ("together", Settings().max_batch)):
            times: dict[str, list[float]] = {one: [] for one in calls}
            for _ in range(options.rounds if concurrency == 1 else max(1, options.rounds // 4)):
                for one, call in calls.items():
                    times[one].append(milliseconds(call, concurrency, pool))
            medians = {one: median(own) for one, own in times.items()}
            ratios = {one: medians[one] / medians["bare"] for one in calls}
            result[kind] = {"milliseconds": medians, "times bare": ratios}
    if options.json:
        print(json.dumps(msgspec.to_builtins(result)))
        return
    print(f"{options.bundle}: answers {'equal' if equal else 'DIFFER FROM'} those of this processor bit for bit")
    for kind in ("alone", "together"):
        measured = result[kind]
        assert isinstance(measured, dict)
        for one in calls:
            print(f"{kind:9} {one:14} {measured['milliseconds'][one]:8.1f} ms {measured['times bare'][one]:6.2f}")


if __name__ == "__main__":
    main()
