"""Jobs: in order, and a cluster that cannot be used ends the command with one line."""

from __future__ import annotations

import pickle
import socket
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from cachenet.shared.command import jobs
from cachenet.shared.command.errors import UserError
from cachenet.simulator.cli import app


def scaled(factor: int, value: int) -> int:
    return factor * value


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package that takes Ray's place: a cluster of one node of two processors."""
    fake: Any = ModuleType("ray")
    fake.__spec__ = ModuleSpec("ray", None)
    fake.init = lambda *_arguments, **_options: None
    fake.nodes = lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 9.0}}]
    fake.is_shut_down = False
    fake.shutdown = lambda: setattr(fake, "is_shut_down", True)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_without_a_cluster_jobs_run_in_this_process_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with jobs.connected("") as run:
        assert run is jobs.in_process
        assert list(run(scaled, 3, [3, 1, 2])) == [9, 3, 6]


def test_a_cluster_without_ray_ends_the_command_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(app, ["compare", "--cluster", "auto"])
    assert result.exit_code == 2
    [line] = result.output.strip().splitlines()
    assert "'.[cluster]'" in line


@pytest.mark.parametrize("address", ["head", "ray://head", "head:0", ":6379", "head:x", "head:²"])
def test_an_address_that_is_none_is_refused(address: str, ray: ModuleType) -> None:  # noqa: ARG001
    with pytest.raises(UserError, match="neither auto nor HOST:PORT"), jobs.connected(address):
        pass


def test_a_cluster_that_does_not_listen_is_refused(ray: ModuleType) -> None:  # noqa: ARG001
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UserError, match="refused"), jobs.connected(address):
            pass


def test_an_error_of_rays_connection_is_one_line(ray: Any) -> None:
    def init(*_arguments: object, **_options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nMore text")

    ray.init = init
    with pytest.raises(UserError, match=r"^cluster auto: Could not find any running Ray instance\.$"):
        jobs.connected("auto").__enter__()


def test_a_job_with_more_threads_than_any_node_has_is_refused(ray: Any) -> None:
    """Ray itself would wait forever for such a node."""
    with pytest.raises(UserError, match="3 threads"), jobs.connected("auto", 3):
        pass
    assert ray.is_shut_down
    with jobs.connected("auto", 2):
        pass


def test_a_node_that_computes_otherwise_is_refused() -> None:
    here = jobs.computes_with()
    assert jobs._task(scaled, here, pickle.dumps(2), 3) == 6
    with pytest.raises(UserError, match="differs from the machine of the command in processor"):
        jobs._task(scaled, here | {"processor": "another"}, b"is not read", 3)
