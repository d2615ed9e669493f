"""The actors of a run on Ray: hired, dealt series, replaced when they are lost, asked to stop."""

from __future__ import annotations

import re
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NoReturn

from kspacesr_rt.dicom import Scan, Series
from kspacesr_rt.dicom.store import STATE_FOLDER
from kspacesr_rt.errors import BackendUnavailableError, SliceFailed
from kspacesr_rt.pipeline.output_folder import Journal
from kspacesr_rt.pipeline.ray.actor import ActorJob, Outcome, Refusal, SeriesActor
from kspacesr_rt.pipeline.ray.cluster import Placement, head_address, is_reachable, nodes_of
from kspacesr_rt.pipeline.report import SliceRecord
from kspacesr_rt.pipeline.run_state import FileTask, RunState

ASSIGNED_AT_ONCE: Final = 2
"""Series that an actor has: one that it computes, and one so that it need not wait for the next."""
MAX_LOST: Final = 3
"""Actors that may be lost over one series, or one after the other while they open."""
POLL_S: Final = 0.25
"""How often the driver looks for signals."""
CHECK_S: Final = 5.0
"""How often it looks for new nodes."""
HEAD_S: Final = 20.0
"""How long the head node may be away; Ray ends this process after 60 s, without a report."""
START_S: Final = 300.0
"""How long it waits while no actor is there: nodes may be starting, or be taken by others."""
STOP_S: Final = 10.0
"""How long actors may take to finish their slices when the run ends early."""


@dataclass(kw_only=True, slots=True, eq=False)
class Work:
    """A series on its way."""

    series: Series
    """From the scan."""
    offset: int
    """Place of its first file among all files of the run."""
    lost: int = 0
    """Actors that were lost while they computed it."""
    assigned: bool = False
    """Whether an actor had it."""

    @property
    def pixels(self) -> int:
        """How much there is to compute."""
        return sum(
            (one.n_frames or 1) * one.matrix[0] * one.matrix[1] for one in self.series.slices
        )


@dataclass(kw_only=True, slots=True, eq=False)
class Member:
    """An actor, as the driver knows it."""

    handle: Any
    """Its handle."""
    opening: Any
    """Ref of its `open`; None once it is open."""
    assigned: deque[tuple[Any, Work]] = field(default_factory=deque)
    """Refs and series, in the order in which it processes them."""


class ActorPool:
    """Actors, and the series that are still to be done."""

    def __init__(
        self,
        ray: Any,
        run: RunState,
        scan: Scan,
        placement: Placement,
        job: ActorJob,
        *,
        own: bool = False,
    ) -> None:
        self._ray, self._run, self._placement, self._job = ray, run, placement, job
        starts = accumulate((len(one.slices) for one in scan.series), initial=0)
        works = [
            Work(series=series, offset=offset)
            for offset, series in zip(starts, scan.series, strict=False)  # one start too many
        ]
        # The largest first, so that none of them is left alone at the end.
        self._queue = deque(sorted(works, key=lambda work: -work.pixels))
        self._members: list[Member] = []
        self._known = Journal(run.output, derivation=run.derivation)  # before anything of this run
        self._writer, self._hired = secrets.token_hex(4), 0
        self._lost = self._failed_starts = 0
        self._next_check = 0.0
        self._served = False  # whether any actor ever came up
        self._alone_since = time.monotonic()
        self._own = own  # the cluster is this run's, with one node
        self._head, self._head_seen = head_address(ray), time.monotonic()
        self._gone = False  # whether the cluster is, so that nothing more is asked of it
        self._written = 0  # bytes of all journals: what actors finish shows there first
        self.most = 0
        """Actors that were open at the same time, at most."""

    def work(self) -> None:
        """Bring every series through; what became of each file is in the run's records.

        Raises
        ------
        KspaceSRError
            What an actor refused.
        StopRequestedError
            If a signal waits.
        """
        try:
            while self._queue or any(member.assigned for member in self._members):
                self._run.check_stop()
                self._check_cluster()
                self._assign()
                self._await(POLL_S)
                self._give_up_alone()
        except Exception:
            self._stop()
            raise
        finally:
            self._end_all()
            if self._lost:
                lost = f"{self._lost} workers were lost; others took over their series"
                self._run.notes[lost] = None

    @property
    def _open(self) -> list[Member]:
        return [member for member in self._members if member.opening is None]

    def _check_cluster(self) -> None:
        """See whether the cluster is there, whether it gets on, and whether it has room for more.

        Raises
        ------
        BackendUnavailableError
            If it is gone: nothing that is left would ever be done.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_S
        self._note_progress()
        if not is_reachable(self._head):
            self._run.elsewhere = "the head node of the Ray cluster does not answer"
            if now - self._head_seen > HEAD_S:
                self._lose_cluster(self._run.elsewhere)
            return
        self._head_seen = now
        nodes = nodes_of(self._ray)
        if not nodes and self._own:
            self._lose_cluster("the only node of the Ray cluster of this run has ended")
        at_work = sum(bool(member.assigned) for member in self._members)
        self._run.elsewhere = (
            f"{at_work} workers are at work on {len(nodes)} nodes of the Ray cluster, "
            f"{len(self._queue)} series wait"
        )
        self._add_actors(nodes)

    def _note_progress(self) -> None:
        """Count it as a movement if any actor has noted something in its journal."""
        written = _journal_bytes(self._run.output)
        if written != self._written:
            self._written = written
            self._run.timer.note_progress()

    def _lose_cluster(self, why: str) -> NoReturn:
        self._gone = True
        raise BackendUnavailableError(
            f"{why}: {self._run.total - self._run.done} slices are not done, or not known to be",
            hint="the same command completes the run; without --engine ray it does so in one "
            "process. A node that ends by itself mostly lacks memory: fewer --actors need less",
        )

    def _add_actors(self, nodes: Sequence[Mapping[str, float]]) -> None:
        """Start actors where there is room, never more than there are series for."""
        room = self._placement.wanted(nodes)
        idle = sum(not member.assigned for member in self._members)
        for _ in range(min(room - len(self._members), len(self._queue) - idle)):
            self._members.append(self._started())

    def _started(self) -> Member:
        # Ray restarts nothing: only the driver knows what an actor that is lost has finished.
        settings: dict[str, Any] = {"num_cpus": self._placement.cpus, "max_restarts": 0}
        if self._placement.gpus:
            settings["num_gpus"] = self._placement.gpus
        # `stop` is answered beside `process`; all else runs in one thread, as CUDA likes it.
        remote = self._ray.remote(concurrency_groups={"control": 1})(SeriesActor)
        handle = remote.options(**settings, scheduling_strategy="SPREAD").remote(
            self._job, f"{self._writer}{self._hired:04x}"
        )
        self._hired += 1
        return Member(handle=handle, opening=handle.open.remote())

    def _assign(self) -> None:
        """Give series to actors: everyone one before anyone a second."""
        for depth in range(ASSIGNED_AT_ONCE):
            for member in self._open:
                idle = sum(not one.assigned for one in self._members) if depth else 0
                if len(member.assigned) == depth and len(self._queue) > idle:
                    work = self._queue.popleft()
                    work.assigned = True
                    ref = member.handle.process.remote(work.series, again=work.lost > 0)
                    member.assigned.append((ref, work))

    def _await(self, timeout_s: float) -> None:
        """Wait for whatever happens next."""
        refs = {
            member.assigned[0][0] if member.opening is None else member.opening: member
            for member in self._members
            if member.assigned or member.opening is not None
        }
        if not refs:
            time.sleep(timeout_s)
            return
        ready, _ = self._ray.wait(list(refs), num_returns=1, timeout=timeout_s)
        for ref in ready:
            self._take(refs[ref], ref)

    def _take(self, member: Member, ref: Any) -> None:
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(ref)
        except errors.RayTaskError as exc:  # actors let none out: what they return did not load
            raise _not_loading(exc) from exc
        except errors.RayError as exc:
            if getattr(exc, "actor_init_failed", False):
                raise _not_loading(exc) from exc
            self._lose(member)
            return
        opened, member.opening = member.opening is not None, None
        work = None if opened else member.assigned.popleft()[1]
        if isinstance(answer, Refusal):
            if work is not None:
                self._queue.appendleft(work)  # its journal may tell of some slices
            answer.raise_it()
        if work is None:
            self._served, self._failed_starts = True, 0
            self.most = max(self.most, len(self._open))
        else:
            self._merge(work, answer)

    def _merge(self, work: Work, outcome: Outcome) -> None:
        run, uid = self._run, work.series.uid
        for place, record in outcome.records.items():
            if outcome.again:
                record = self._as_first_written(work, place, record)
            run.records[work.offset + place] = record
        run.series_records[uid] = outcome.series_records
        run.timer.merge(outcome.seconds, outcome.cpu_seconds)
        run.header_counts.merge(outcome.headers)
        run.notes.update(dict.fromkeys(outcome.notes))
        run.advance(outcome.done)

    def _as_first_written(self, work: Work, place: int, record: SliceRecord) -> SliceRecord:
        """Return a record as if one actor had done all: ``present`` means by an earlier run."""
        if record.outcome != "present" or self._known.find(work.series.slices[place]):
            return record
        return replace(record, outcome="written")

    def _lose(self, member: Member) -> None:
        """Put what an actor had back into the queue."""
        self._members.remove(member)
        self._kill(member)
        self._lost += 1
        self._next_check = 0.0
        if not self._open:
            self._alone_since = time.monotonic()
        if member.opening is not None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_LOST:
                raise BackendUnavailableError(
                    f"{self._failed_starts} actors died while they opened backend "
                    f"'{self._run.backends.choice.backend}'",
                    hint="try it on one of the nodes: kspacesr-rt verify MODEL --backend ...",
                )
            return
        lost = [work for _, work in member.assigned]
        lost[0].lost += 1  # the others had not begun
        if lost[0].lost >= MAX_LOST:
            self._give_up(lost.pop(0))
        self._queue.extendleft(reversed(lost))

    def _give_up(self, work: Work) -> None:
        """Record a series that kills its actors: what is finished of it, and the rest as failed."""
        self._settle_finished([work])
        for task in _tasks(work):
            if task.ordinal not in self._run.records:
                error = SliceFailed(
                    "lost-worker",
                    "the worker that computed its series was lost, and so were those after it",
                    hint="run it again with the local engine to see why",
                )
                self._run.fail(task, error)

    def _give_up_alone(self) -> None:
        """Give up when no actor has been there for too long."""
        if self._open:
            self._alone_since = time.monotonic()
        if time.monotonic() - self._alone_since < START_S:
            return
        if not self._served:
            raise BackendUnavailableError(
                f"no actor came up within {START_S:.0f} s",
                hint="the cluster is taken by others, perhaps; ray status shows it",
            )
        while self._queue:
            self._give_up(self._queue.popleft())

    def _stop(self) -> None:
        """Let the actors finish their slices, and record what is finished."""
        run, deadline = self._run, time.monotonic() + STOP_S
        run.ending = True
        if self._gone:
            return
        for member in self._open:
            with suppress(Exception):
                member.handle.stop.options(concurrency_group="control").remote()
        while any(member.assigned for member in self._open) and time.monotonic() < deadline:
            with suppress(Exception):  # what ended the run is what is told
                self._await(POLL_S)

    def _end_all(self) -> None:
        """End all actors; what they were about is found in their journals."""
        self._run.ending = True
        for member in self._members:
            self._kill(member)
        left = [work for member in self._members for _, work in member.assigned]
        with suppress(OSError):  # the disk may be what ended the run
            self._settle_finished([*left, *(work for work in self._queue if work.assigned)])
        self._members.clear()

    def _kill(self, member: Member) -> None:
        if self._gone:
            return
        with suppress(Exception):
            self._ray.kill(member.handle)

    def _settle_finished(self, works: list[Work]) -> None:
        """Record what journals tell of series that no actor has told of."""
        if not works:
            return
        run = self._run
        journal = Journal(run.output, derivation=run.derivation)
        for work in works:
            for place, task in enumerate(_tasks(work)):
                found = journal.find(task.source)
                if found is not None and task.ordinal not in run.records:
                    shown = replace(found, file=run.label(task.source.path))
                    run.record_outcome(task, self._as_first_written(work, place, shown))
            if records := journal.series(work.series.uid):
                run.series_records.setdefault(work.series.uid, records)


def _not_loading(exc: Exception) -> BackendUnavailableError:
    """Return the error for a node where not even the first line of an actor runs."""
    node = re.search(r"\bip=([^,\s]+)", str(exc))
    return BackendUnavailableError(
        f"kspacesr-rt does not load on {f'node {node[1]}' if node else 'a node'}: "
        f"{str(exc).strip().splitlines()[-1]}",
        hint="install the same version, with its extras, on every node",
    )


def _journal_bytes(output: Path) -> int:
    """Return how large the journals of an output folder are together: it grows with every slice."""
    sizes = 0
    for path in (output / STATE_FOLDER).glob("journal*.jsonl"):
        with suppress(OSError):  # gone, or a share that is away
            sizes += path.stat().st_size
    return sizes


def _tasks(work: Work) -> Iterator[FileTask]:
    starts = accumulate((one.n_frames or 1 for one in work.series.slices), initial=0)
    for place, (number, source) in enumerate(zip(starts, work.series.slices, strict=False)):
        yield FileTask(ordinal=work.offset + place, number=number, source=source)
