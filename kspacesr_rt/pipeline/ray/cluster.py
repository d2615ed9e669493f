"""A Ray cluster for one run: reached or started, what its nodes offer, and how actors fit there."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kspacesr_rt.errors import BackendUnavailableError, InputError, KspaceSRError
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.runtime.backends import backend_info
from kspacesr_rt.system.cpu import available_cores
from kspacesr_rt.system.interruption import (
    TerminatedError,
    deferred_signals,
    owns_signals,
    set_handler,
)

CPUS_PER_ACTOR: Final = 4
"""Cores of an actor whose backend computes on the CPU, where nothing else is asked for: Python
decodes and encodes in one thread of a process, so more processes with fewer threads do more."""
CPUS_BESIDE_GPU: Final = 8
"""Cores, at most, for decoding and encoding beside a GPU."""
OBJECT_STORE_BYTES: Final = 100_000_000
"""Of a cluster of our own: only lists of files and records pass through it."""
OWN: Final = "local"
"""What Ray calls a cluster that it starts itself."""
CONNECT_S: Final = 5.0
"""How long a head node may take to answer; Ray itself waits for minutes."""
_TOKEN: Final = secrets.token_hex(32)
"""Of clusters of our own, in this process and those that it starts: no file holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What one actor holds, and how many there are to be."""

    cpus: int
    """Cores of a node."""
    gpus: int
    """GPUs of a node: 1 or 0."""
    actors: int
    """Wanted; 0: as many as fit."""

    @classmethod
    def of(
        cls,
        nodes: Sequence[Mapping[str, float]],
        options: InferOptions,
        backend: str,
        actors: int,
    ) -> Placement:
        """Choose what an actor holds.

        Parameters
        ----------
        nodes
            What each node offers, by Ray's names.
        options
            Its threads are cores for each actor, if given.
        backend
            What computes.
        actors
            Wanted; 0: as many as fit.

        Raises
        ------
        BackendUnavailableError
            If the backend needs a GPU and no node has one.
        InputError
            If the actors that are wanted do not fit.
        """
        if backend_info(backend).on_gpu:
            shares = [int(one["CPU"] // int(one["GPU"])) for one in nodes if one.get("GPU", 0) >= 1]
            if not shares:
                raise BackendUnavailableError(
                    f"backend '{backend}' needs a GPU, and no node of the cluster offers one",
                    hint="start its nodes with: ray start --num-gpus N",
                )
            placement = cls(cpus=min(CPUS_BESIDE_GPU, min(shares)), gpus=1, actors=actors)
        else:
            cores = [int(one.get("CPU", 0)) for one in nodes]
            share = sum(cores) // actors if actors else CPUS_PER_ACTOR
            cpus = options.threads or max(1, min(CPUS_PER_ACTOR, share, max(cores, default=0)))
            placement = cls(cpus=cpus, gpus=0, actors=actors)
        room = placement.room(nodes)
        if room < max(1, actors):
            raise InputError(
                f"the cluster has room for {room} actors of {placement.cpus} cores"
                f"{' and a GPU' if placement.gpus else ''}, not for {max(1, actors)}",
                hint="ask for fewer --actors or --threads, or add nodes",
            )
        return placement

    def room(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many actors fit on nodes that nobody else uses."""
        return sum(
            min(
                int(one.get("CPU", 0)) // self.cpus if self.cpus else 1_000_000,
                int(one.get("GPU", 0)) // self.gpus if self.gpus else 1_000_000,
            )
            for one in nodes
        )

    def wanted(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many actors there should be now."""
        room = self.room(nodes)
        return min(self.actors, room) if self.actors else room

    def workers(self, options: InferOptions) -> int:
        """Return how many threads of an actor read and write."""
        return options.workers or min(8 if self.gpus else 4, max(2, self.cpus))


def import_ray() -> Any:
    """Return the package.

    Raises
    ------
    BackendUnavailableError
        If it is not installed.
    """
    try:
        with deferred_signals():
            import ray
    except ImportError as exc:
        raise BackendUnavailableError(
            "the engine 'ray' needs the package 'ray', which is not installed",
            hint="pip install 'kspacesr-rt[cluster]'",
        ) from exc
    return ray


def is_own(address: str | None) -> bool:
    """Return whether `connected` would start a cluster, on this machine alone."""
    return not import_ray().is_initialized() and _address(address) == OWN


def _address(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or OWN


def head_address(ray: Any) -> tuple[str, int]:
    """Return host and port of the head node that this process is connected to."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host, int(port)


def is_reachable(head: tuple[str, int]) -> bool:
    """Return whether somebody listens at a head node's port; Ray's own calls would wait for it."""
    try:
        socket.create_connection(head, timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def nodes_of(ray: Any) -> list[dict[str, float]]:
    """Return what each living node offers, by Ray's names."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def connected(address: str | None, *, cpus: int) -> Iterator[Any]:
    """Be connected to a cluster within the block.

    Parameters
    ----------
    address
        ``HOST:PORT`` of a cluster that this machine is a node of, or ``auto``; None: what
        ``RAY_ADDRESS`` says, or else a cluster of our own on this machine alone, for the block.
    cpus
        Cores that a cluster of our own is to offer at least.

    Yields
    ------
        The package `ray`. Where the caller has connected it already, that stays as it is.

    Raises
    ------
    BackendUnavailableError
        If Ray is not installed, or does not start here.
    InputError
        If the cluster cannot be reached.
    """
    before = signal.getsignal(signal.SIGTERM)
    ray = import_ray()
    if ray.is_initialized():
        _require_same_cluster(ray, address)
        yield ray
        return
    address = _address(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as stack:
        stack.callback(_restore, before)
        stack.enter_context(_variables_kept())
        try:
            if address == OWN:
                stack.enter_context(_on_loopback(ray))
                stack.enter_context(_own_token(ray))
                # Ray's logs go with the cluster: its own folder would keep them. Sockets lie in
                # there, and their paths must be short.
                folder = tempfile.TemporaryDirectory(
                    prefix="ksr-",
                    dir="/tmp" if os.name == "posix" else None,
                    ignore_cleanup_errors=True,
                )
                quiet |= {"_temp_dir": stack.enter_context(folder)}
                quiet |= {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
                quiet |= {"num_cpus": max(cpus, available_cores())}
            else:
                _require_reachable(address)
            stack.callback(ray.shutdown)
            ray.init(address=address, **quiet)
            _restore(before)  # Ray has put its own in the place of the command line's
        except KspaceSRError:
            raise
        except SystemExit as exc:
            _require_other_end(exc, before)
            raise
        except Exception as exc:  # Ray raises that very class where a node does not come up
            if address == OWN:
                why = str(exc).strip().partition("\n")[0] or type(exc).__name__
                raise BackendUnavailableError(
                    f"Ray does not start here: {why}",
                    hint="a busy machine may be too slow for its deadlines: try again, or take "
                    "--engine local",
                ) from exc
            raise _unreachable(address, type(exc).__name__) from exc
        stack.enter_context(_silent(ray))
        yield ray


def _require_other_end(end: SystemExit, handler: Any) -> None:
    """Give a SIGTERM that Ray's own handler took, while Ray starts, to the command line's.

    Raises
    ------
    TerminatedError
        In place of an end with the number of the signal as exit code.
    """
    if end.code == signal.SIGTERM and owns_signals() and callable(handler):
        handler(signal.SIGTERM, None)
        raise TerminatedError from end


def _restore(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        set_handler(signal.SIGTERM, handler)


@contextmanager
def _variables_kept() -> Iterator[None]:
    """Put the variables that Ray sets in the environment back after the block.

    `ray.init` sets ``RAY_AUTH_MODE``: a cluster that it starts asks for a token (ray 2.60), which
    is as it should be, since whoever reaches a cluster without one can run code there. It also
    sets ``PYTHONBREAKPOINT``, which would have every `breakpoint` afterwards look for a cluster.
    """
    before = _variables_of_ray()
    try:
        yield
    finally:
        for name in _variables_of_ray().keys() - before:
            del os.environ[name]
        os.environ.update(before)


def _variables_of_ray() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("RAY_") or name == "PYTHONBREAKPOINT"
    }


@contextmanager
def _on_loopback(ray: Any) -> Iterator[None]:
    """Have a cluster that Ray starts listen on loopback, as it does on macOS and Windows.

    On Linux its six servers listen on all interfaces, whatever address they are given (ray 2.60);
    this constant is what Ray asks for the platform.
    """
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _own_token(ray: Any) -> Iterator[None]:
    """Have a cluster that Ray starts ask for a token that only its processes know.

    Ray would write one into the home folder, which a container's user may not have.
    """
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        yield
        return
    loader = ray._raylet.AuthenticationTokenLoader.instance()
    os.environ["RAY_AUTH_TOKEN"] = _TOKEN  # `_variables_kept` takes it away again
    loader.reset_cache()
    try:
        yield
    finally:
        loader.reset_cache()


@contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """Keep Ray from printing a lost worker's obituary on stdout: the report tells of it.

    ``log_to_driver=False`` does not stop that (ray 2.60, `listen_error_messages`).
    """
    module = ray._private.worker
    printing = getattr(module, "print_to_stdstream", None)
    if printing is None:
        yield
        return
    module.print_to_stdstream = lambda *args, **kwargs: None
    try:
        yield
    finally:
        module.print_to_stdstream = printing


def _require_same_cluster(ray: Any, address: str | None) -> None:
    if address not in (None, "auto", ray.get_runtime_context().gcs_address):
        raise InputError(
            "this process is connected to another Ray cluster than the one that is asked for",
            hint="leave the address out, or call ray.shutdown() first",
        )


def _require_reachable(address: str) -> None:
    """Refuse an address where nothing listens: Ray would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(
            f"'{address}' is no address of a Ray cluster",
            hint="HOST:PORT of its head node, or auto; run this on one of its nodes",
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as exc:
        raise _unreachable(address, "nothing answers there") from exc


def _unreachable(address: str, why: str) -> InputError:
    return InputError(
        f"the Ray cluster '{address}' cannot be reached: {why}",
        hint="run this on one of its nodes (ray start --address HOST:PORT makes this machine one), "
        "with its versions of Ray and Python, and RAY_AUTH_MODE=token if it asks for tokens",
    )
