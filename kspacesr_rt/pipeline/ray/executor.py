"""Archives on a Ray cluster: series are dealt to actors, and one report is made of what they did.

The driver scans, holds the output folder's lock, deals and merges (`actor_pool`); actors compute
(`ray_actor`). An actor has two series at most: the one it computes and the next. What a lost actor
had goes to others, who find in its journal what it has finished.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from kspacesr_rt.dicom import Scan
from kspacesr_rt.errors import InputError
from kspacesr_rt.pipeline.executors import Executor, LocalExecutor
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.ray.actor import ActorJob
from kspacesr_rt.pipeline.ray.actor_pool import ActorPool
from kspacesr_rt.pipeline.ray.cluster import Placement, connected, is_own, nodes_of
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.pipeline.stage_timer import auto_streams
from kspacesr_rt.runtime.backends import backend_info
from kspacesr_rt.system.counts import ACTORS_MOST
from kspacesr_rt.system.output_time import EPOCH


class RayExecutor:
    """Processes series in actors of a Ray cluster."""

    computes_here = False

    def __init__(self, address: str | None = None, *, actors: int = 0) -> None:
        """Keep what is told; the cluster is reached when the executor is entered.

        Parameters
        ----------
        address
            ``HOST:PORT`` of a cluster that this machine is a node of, or ``auto``; None: what
            ``RAY_ADDRESS`` says, or else a cluster of its own on this machine.
        actors
            How many; 0: as many as the cluster has room for.

        Raises
        ------
        InputError
            If the number is negative, or more than any cluster has.
        """
        if not 0 <= actors <= ACTORS_MOST:
            raise InputError(f"{actors} actors are not possible; from 0 to {ACTORS_MOST} are")
        self._address, self._wanted = address, actors
        self._stack = ExitStack()
        self._threads = (1, 1)

    def __enter__(self) -> Self:
        self._own = is_own(self._address)
        self._ray = self._stack.enter_context(connected(self._address, cpus=self._wanted))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def side_by_side(self, run: RunState) -> tuple[int, int]:
        """Return the threads that read and write, and the backends' streams, of all actors."""
        return self._threads

    def process(self, run: RunState, scan: Scan) -> None:
        """Process every series on the cluster; see `kspacesr_rt.pipeline.executors.Executor`.

        Raises
        ------
        BackendUnavailableError
            If the backend cannot run on a node, or no actor comes up.
        InputError
            If the actors that are wanted do not fit, or a node sees other folders or computes with
            another model.
        OutputError
            If an output cannot be written.
        StopRequestedError
            If a signal waits.
        """
        backend, options = run.backends.choice.backend, run.options
        placement = Placement.of(nodes_of(self._ray), options, backend, self._wanted)
        job = ActorJob(
            source=run.source,
            output=run.output,
            options=_settled(options, backend, placement),
            derivation=run.derivation,
            parameters=run.parameters,
            workers=placement.workers(options),
            epoch=os.environ.get(EPOCH),
            model_content=run.backends.model_content(),
        )
        pool = ActorPool(self._ray, run, scan, placement, job, own=self._own)
        try:
            pool.work()
        finally:
            run.processes = most = pool.most or 1
            self._threads = (most * job.workers, most * job.options.streams)


def _settled(options: InferOptions, backend: str, placement: Placement) -> InferOptions:
    """Return the options of every actor: nothing is left for a node to choose."""
    from kspacesr_rt.model.file import shipped_models

    model = options.model
    if model is not None and model not in shipped_models():
        model = str(Path(model).absolute())
    threads = options.threads if placement.gpus else placement.cpus
    streams = options.streams or auto_streams(backend_info(backend), threads)
    # A tier is settled as well: its model is sent along, where it is another one.
    return replace(
        options,
        backend=backend,
        tier="exact",
        model=model,
        threads=threads,
        streams=streams,
        processes=0,  # there are actors
    )


def executor_named(name: str, *, address: str | None = None, actors: int = 0) -> Executor:
    """Return an executor by its name.

    Parameters
    ----------
    name
        ``local`` or ``ray``.
    address, actors
        Of `RayExecutor`; nothing else takes them.

    Raises
    ------
    InputError
        If there is no such engine, or it does not take what was told.
    """
    if name == "ray":
        return RayExecutor(address, actors=actors)
    if name != "local":
        raise InputError(f"--engine is local or ray, not '{name}'")
    if address is not None or actors:
        raise InputError("--address and --actors go with --engine ray")
    return LocalExecutor()
