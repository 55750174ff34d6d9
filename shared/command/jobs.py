"""Independent jobs of a command: in this process, or as tasks of a Ray cluster (P. Moritz et al., arXiv 1712.05889).

Results do not depend on the cluster: they come in the order of their arguments, and a task refuses to run on a node
whose processor or packages differ from those of the machine that gave the command.
"""

from __future__ import annotations

import logging
import pickle
import platform
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cachenet.shared.command.errors import UserError
from cachenet.shared.command.extras import require

HELP = (
    "Ray cluster that runs independent jobs: auto (the one of this machine), HOST:PORT or ray://HOST:PORT "
    "(default: this process)."
)

#: Times that a task is started again after its worker process or its node has died.
_RETRIES = 5
#: Longest time of a connection to the cluster's head, seconds.
_CONNECT_S = 10
#: Packages whose versions may change the last bits of a result.
_PACKAGES = ("cachenet", "numpy", "onnxruntime", "opencv-python-headless", "torch")

Shared = TypeVar("Shared")
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class ClusterError(UserError):
    """The cluster cannot be used. The message says why."""


class Run(Protocol):
    """Calls a function of a module for each argument; yields the results in the order of the arguments."""

    def __call__(
        self, function: Callable[[Shared, Argument], Result], shared: Shared, arguments: Iterable[Argument]
    ) -> Iterator[Result]:
        """``shared`` is the first argument of every call: it reaches each node once."""


def in_process(
    function: Callable[[Shared, Argument], Result], shared: Shared, arguments: Iterable[Argument]
) -> Iterator[Result]:
    """See ``Run``: one call after another, in this process."""
    return (function(shared, argument) for argument in arguments)


@contextmanager
def connected(cluster: str, threads: int = 1) -> Iterator[Run]:
    """Run jobs in this process, or on a cluster until the context ends.

    Args:
        cluster: See ``HELP``; empty for this process.
        threads: Threads of a job, which are as many processors of a node.

    Raises:
        UserError: Ray is missing.
        ClusterError: There is no such cluster, or no node has as many processors.
    """
    if not cluster:
        yield in_process
        return
    require("cluster", "ray")
    _check_address(cluster)
    import ray

    try:
        ray.init(
            cluster,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )
    except Exception as error:  # connection, version and client errors have no common base class
        raise ClusterError(f"cluster {cluster}: {_one_line(error)}") from None
    try:
        most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if most < threads:
            raise ClusterError(f"a job has {threads} threads, and no node of the cluster has more than {most:g} CPUs")
        yield _on_ray(ray, threads)
    finally:
        ray.shutdown()


def _on_ray(ray: Any, threads: int) -> Run:
    def run(
        function: Callable[[Shared, Argument], Result], shared: Shared, arguments: Iterable[Argument]
    ) -> Iterator[Result]:
        task = ray.remote(_task).options(num_cpus=threads, max_retries=_RETRIES, name=function.__name__)
        here = computes_with()
        with _failures(ray):
            reference = ray.put(pickle.dumps(shared))  # as bytes, because Ray's client server pickles objects again
            results = [task.remote(function, here, reference, argument) for argument in arguments]
        return (_result(ray, one) for one in results)

    return run


def _result(ray: Any, reference: Any) -> Any:
    """The result of a task. Raises the task's own error, or ``ClusterError``."""
    with _failures(ray):
        return ray.get(reference)


@contextmanager
def _failures(ray: Any) -> Iterator[None]:
    """Raise the error of a task, or ``ClusterError`` for errors of the cluster and of files on its nodes."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError):
            raise ClusterError(f"a job of the cluster has failed: {_one_line(error.cause)}") from None
        raise error.cause from None
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ClusterError(f"a job of the cluster has failed: {_one_line(error)}") from None


def _task(
    function: Callable[[Shared, Argument], Result], expected: dict[str, str], shared: bytes, argument: Argument
) -> Result:
    """Call ``function`` with ``shared``, pickled. Raises ``ClusterError`` if this node differs from ``expected``."""
    own = computes_with()
    if differing := [name for name in expected if own[name] != expected[name]]:
        raise ClusterError(
            f"node {platform.node()} differs from the machine of the command in {', '.join(differing)}, so its results "
            "may differ; use nodes of one kind, and give the command on one of them"
        )
    return function(pickle.loads(shared), argument)


def computes_with() -> dict[str, str]:
    """What decides the last bits of a result on this machine: processor and versions of packages, by name."""
    found = {"processor": platform.machine(), "Python": platform.python_version()}
    info = Path("/proc/cpuinfo")
    if info.exists() and (flags := re.search(r"^(?:flags|Features)\s*:\s*(.*)$", info.read_text(), re.M)):
        found["processor"] += " " + " ".join(sorted(flags[1].split()))
    return found | {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _check_address(cluster: str) -> None:
    """Raise ``ClusterError`` if nothing listens there; Ray itself would try for minutes."""
    if cluster == "auto":
        return
    host, _, port = cluster.removeprefix("ray://").rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ClusterError(f"cluster {cluster!r} is neither auto nor HOST:PORT nor ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
        raise ClusterError(f"cluster {cluster}: {getattr(error, 'strerror', None) or error}") from None


def _one_line(error: Exception) -> str:
    """The first line of an error's text, or the last one of a traceback from another machine."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if "Traceback" in str(error) else 0]
