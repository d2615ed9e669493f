"""The spool: where every instance is, between Success to its sender and Success from the targets.

The state of a part (what arrived of a series until it fell silent) is the folder that it lies in,
and each step to the next state is one rename:

=========== =============================== ==================================================
state       the part holds                  left by
=========== =============================== ==================================================
received    ``in/``                         `close`: the series is complete, or silent -> closed;
                                            results of what it corrects are not sent any more
closed      ``in/``, ``out/`` so far        `finish_processing`: every slice has its outcome
            ``attempts``                    -> processed; `set_aside`: nothing can be
                                            processed -> quarantined, or gone
processed   ``in/``, ``out/``               `finish_forwarding`: every target has acknowledged
                                            all of ``out/`` (journal `sent`) -> forwarded;
                                            `keep_undelivered`: a target refuses some of it for
                                            good -> undelivered
forwarded   the same                        `tidy`: what was left out -> quarantined; else gone
quarantined ``in/``, ``reasons.json``       a person
undelivered as processed, ``refused.json``  `requeue_undelivered` (``serve --retry``) -> processed;
                                            a person
=========== =============================== ==================================================

Beside these: ``incoming/`` holds files that have no Success yet, ``trash/`` what is being removed;
both are emptied when the spool is opened. Everything else is taken up where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final, Literal

from kspacesr_rt.errors import OutputError, failing_the_output
from kspacesr_rt.services import durable_files
from kspacesr_rt.services.durable_files import FULL_DISK
from kspacesr_rt.services.node import corrections
from kspacesr_rt.services.node.event_counter import EventCounter
from kspacesr_rt.services.node.incoming_instance import Arrival
from kspacesr_rt.services.node.spool_part import WAITING, Limits, Part, SpoolFullError, State

MARKER: Final = "kspacesr-spool"
"""A file of this name says that a folder is a spool, and of which layout."""
LAYOUT: Final = b"1\n"
INCOMING, TRASH, SENT = "incoming", "trash", "sent"
REFUSED: Final = "refused.json"
MAX_ATTEMPTS: Final = 5
"""Times that a part may end the process (or raise what nobody foresaw) before it is set aside."""


MIN_RELEASED: Final = 2
"""Instances of a series over one association, from which its release says that they are all."""
MAX_SENDERS: Final = 16
"""Senders of one series that are told apart."""


@dataclass(kw_only=True, slots=True)
class _Open:
    """A part that still grows."""

    part: Part
    last: float
    """When its last instance came, on the monotonic clock."""
    instances: set[str] = field(default_factory=set)
    """Digests of the SOP Instance UIDs."""
    expected: int | None = None
    """Instances of the series, if the sender told."""
    arrived: dict[str, Counter[str]] = field(default_factory=dict)
    """What came, by its sender and what `Spool.store` said of it."""

    associations: set[object] = field(default_factory=set)
    """Over which instances came, by identity."""
    released: float | None = None
    """When the only one of them was released."""

    def note(self, sender: str, outcome: str) -> None:
        key = sender if sender in self.arrived or len(self.arrived) < MAX_SENDERS else "others"
        self.arrived.setdefault(key, Counter())[outcome] += 1

    @property
    def is_complete(self) -> bool:
        return self.expected is not None and len(self.instances) >= self.expected

    def is_due(self, now: float, timeout_s: float, released_timeout_s: float) -> bool:
        # Who opens an association for every instance has released one after the first of them.
        is_whole = len(self.associations) == 1 and len(self.instances) >= MIN_RELEASED
        released = self.released if is_whole else None
        return (
            self.is_complete
            or now - self.last >= timeout_s
            or (released is not None and now - released >= released_timeout_s)
        )


class Spool:
    """A folder of parts; one process at a time, any number of its threads.

    Parameters
    ----------
    root
        The folder, made if missing; must be empty or a spool.
    limits
        How much it may hold.
    clock
        A monotonic clock, in seconds.

    Raises
    ------
    OutputError
        If the folder is something else, cannot be written, or another process uses it.
    """

    def __init__(
        self,
        root: Path,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root
        self.limits = limits or Limits()
        self._clock = clock
        self._lock = threading.RLock()
        self._open: dict[str, _Open] = {}
        self._bytes: dict[str, int] = {}
        self._claims: dict[Path, int] = {}
        self.changes = EventCounter()
        """What may be a reason to look at the parts again."""
        self._is_new = False
        self._made: tuple[Path, ...] = ()
        with failing_the_output("the spool cannot be used"):
            self._held = self._claim()
            try:
                self._recover()
            except BaseException:
                self._held.close()
                raise

    def close_all(self) -> None:
        """Let another process use the spool."""
        self._held.close()

    def undo(self) -> None:
        """Take away what opening has made, unless it was a spool before or holds a part now."""
        if not self._is_new or any(self.counts().values()):
            return
        with suppress(OSError):  # what somebody else put there stays
            for name in (INCOMING, TRASH, SENT, *State):
                durable_files.remove_tree(self.root / name)
            durable_files.remove_file(self.root / MARKER)
            for folder in self._made:
                durable_files.remove_empty(folder)

    # What arrives ---------------------------------------------------------------------------

    def incoming(self, *content: bytes) -> Path:
        """Write an instance that has no place yet, durable except for its name.

        Raises
        ------
        SpoolFullError
            If the disk is full; nothing is left of the attempt.
        """
        path = self.root / INCOMING / secrets.token_hex(8)
        try:
            durable_files.write_new(path, *content)
        except OSError as exc:
            durable_files.remove_file(path)
            if exc.errno in FULL_DISK:
                raise SpoolFullError("disk") from exc
            raise
        return path

    def arrival(self, start: bytes) -> Arrival:
        """Return a file without a place yet, for what streams in behind `start`."""
        path = self.root / INCOMING / secrets.token_hex(8)
        return Arrival(path, start, lambda n_bytes: self._claim_room(path, n_bytes))

    def _claim_room(self, arriving: Path, n_bytes: int) -> None:
        with self._lock:
            if not n_bytes:
                self._claims.pop(arriving, None)
                return
            claimed = sum({**self._claims, arriving: n_bytes}.values())
            if self._reserved() + claimed * (1 + self.limits.growth) > self.limits.n_bytes:
                raise SpoolFullError("disk")
            self._claims[arriving] = n_bytes

    def discard(self, incoming: Path) -> None:
        """Remove an instance that was refused."""
        durable_files.remove_file(incoming)

    def require_room(self, series: tuple[str, str], n_bytes: int) -> None:
        """Refuse an instance that does not fit.

        Raises
        ------
        SpoolFullError
            If its series is new and the queue is full, or the disk's limit would be passed.
        """
        with self._lock:
            if _digest(*series) not in self._open and self.is_full():
                raise SpoolFullError("queue")
            if self._reserved() + n_bytes * (1 + self.limits.growth) > self.limits.n_bytes:
                raise SpoolFullError("disk")

    def is_full(self) -> bool:
        """Return whether a new series would be refused."""
        with self._lock:
            waiting = sum(len(self._names(state)) for state in WAITING)
            return waiting >= self.limits.n_parts or self._reserved() >= self.limits.n_bytes

    def refuses_all(self) -> bool:
        """Return whether every instance would be refused: full, and no series is under way."""
        with self._lock:
            return not self._open and self.is_full()

    def store(
        self,
        series: tuple[str, str],
        sop_instance_uid: str,
        incoming: Path,
        *,
        expected: int | None = None,
        sender: str = "unknown",
        association: object = None,
    ) -> Literal["stored", "duplicate", "corrected"]:
        """Give an instance its place, for good.

        Parameters
        ----------
        series
            Study and Series Instance UID; instances of both go into one part, whoever sends them.
        sop_instance_uid
            Of the instance.
        incoming
            From `incoming`; it is gone afterwards.
        expected
            Number of instances of the series, if the sender told.
        sender
            Who sent it, for `Part.arrived`.
        association
            Over which it came; the one that `note_release` is called with.

        Returns
        -------
            ``duplicate`` if the open part held the very same bytes already; ``corrected`` if it
            held others under that UID, which are gone now.

        Raises
        ------
        SpoolFullError
            As `require_room`.
        """
        with incoming.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        instance = _digest(sop_instance_uid)
        n_bytes = incoming.stat().st_size
        with self._lock:
            self.require_room(series, n_bytes)
            key = _digest(*series)
            growing = self._open.get(key) or self._begin(key)
            growing.last = self._clock()
            again = instance in growing.instances
            growing.instances.add(instance)
            growing.expected = expected or growing.expected
            growing.associations.add(association)
            if growing.is_complete:
                self.changes.note()
            place = growing.part.inputs / f"{instance}-{content[:16]}.dcm"
            if place.exists():
                durable_files.remove_file(incoming)
                growing.note(sender, "duplicate")
                return "duplicate"
            durable_files.move(incoming, place)
            self._bytes[growing.part.name] += n_bytes
            corrected = again and self._remove_older(growing.part, place)
            outcome: Literal["stored", "corrected"] = "corrected" if corrected else "stored"
            growing.note(sender, outcome)
            return outcome

    def note_release(self, association: object) -> None:
        """Take note that a sender has released an association: it has nothing more to say."""
        with self._lock:
            for growing in self._open.values():
                if association in growing.associations:
                    growing.released = self._clock()

    def _remove_older(self, part: Part, place: Path) -> bool:
        """Remove what an instance said before; return whether it said anything."""
        before = [
            path
            for path in part.inputs.glob(f"{place.name.partition('-')[0]}-*.dcm")
            if path != place
        ]
        for path in before:
            self._bytes[part.name] -= path.stat().st_size
            durable_files.remove_file(path)
        if before:
            durable_files.sync_folder(part.inputs)  # a power cut must not bring it back
        return bool(before)

    def _begin(self, key: str) -> _Open:
        name = f"{time.time_ns():020d}-{key}"
        part = Part(name=name, state=State.received, root=self.root)
        while self._exists(name):  # the clock was set back, or is coarse
            name = f"{int(name[:20]) + 1:020d}-{key}"
            part = Part(name=name, state=State.received, root=self.root)
        blank = self.root / INCOMING / secrets.token_hex(8)
        durable_files.make_folder(blank)
        durable_files.make_folder(blank / "in")
        try:
            durable_files.move(blank, part.folder)
        finally:
            if part.folder.exists():  # also if only the sync after it has failed
                self._open[key] = _Open(part=part, last=self._clock())
                self._bytes[name] = 0
        return self._open[key]

    # Steps from state to state --------------------------------------------------------------

    def close(self, timeout_s: float, released_timeout_s: float = math.inf) -> list[Part]:
        """Close the parts whose series is complete or has been silent; return them.

        Parameters
        ----------
        timeout_s
            Seconds of silence after which any series is taken as complete.
        released_timeout_s
            Seconds after which one is that came over a single association, since released.
        """
        with self._lock:
            now = self._clock()
            due = {
                key: one
                for key, one in self._open.items()
                if one.is_due(now, timeout_s, released_timeout_s)
            }
            closed = []
            for key, growing in due.items():
                try:
                    superseded = self._supersede(growing.part)
                    part = self._move(growing.part, State.closed)
                    closed.append(replace(part, arrived=growing.arrived, supersedes=superseded))
                finally:
                    if not growing.part.folder.exists():
                        del self._open[key]
            return closed

    def _supersede(self, part: Part) -> dict[str, int]:
        """Have nothing more sent of what a part says anew; return of how much of what waits."""
        superseded = {}
        for older in self._others_of(part):
            if older.name < part.name and (corrected := corrections.corrected_inputs(older, part)):
                corrections.mark_superseded(older, corrected)
                if older.state in (State.closed, State.processed, State.undelivered):
                    superseded[older.name] = len(corrected)
        return superseded

    def _others_of(self, part: Part) -> list[Part]:
        """Return the other parts of the same series."""
        return [
            Part(name=name, state=state, root=self.root)
            for state in State
            for name in self._names(state)
            if name[21:] == part.name[21:] and name != part.name
        ]

    def superseded(self, part: Part) -> set[Path]:
        """Return the results that are not to be sent, since their source was corrected."""
        with self._lock:
            names = corrections.superseded_inputs(part)
            growing = self._open.get(part.name[21:])
            if growing is not None:
                names |= corrections.corrected_inputs(part, growing.part)
            return corrections.results_of(part, names)

    def begin_attempt(self, part: Part) -> int:
        """Note, before it is tried, that a part is processed; return how often it was before."""
        marks = part.folder / "attempts"
        before = marks.stat().st_size if marks.exists() else 0
        durable_files.append(marks, b"x")
        return before

    def reset_attempts(self, part: Part) -> None:
        """Forget the attempts: what ended the last one was not the part's fault."""
        durable_files.remove_file(part.folder / "attempts")

    def finish_processing(self, part: Part) -> Part:
        """Move a part on whose ``out/`` holds a result or a reason for every input."""
        # The pipeline syncs what is in its files, not their names: a result that a power cut took
        # from a processed part would be sent to nobody.
        durable_files.sync_tree(part.folder)
        return self._move(part, State.processed)

    def finish_forwarding(self, part: Part) -> Part:
        """Move a part on that every target has acknowledged."""
        return self._move(part, State.forwarded)

    def keep_undelivered(self, part: Part, refused: Mapping[str, Mapping[str, str]]) -> None:
        """Take a part out of the way of which a target refuses something for good.

        Parameters
        ----------
        part
            A processed one; all that is not refused was acknowledged.
        refused
            For each target, SOP Instance UIDs of ``out/`` and why they were refused.
        """
        place = part.folder / REFUSED
        if not place.exists():
            draft = self.incoming((json.dumps(refused, indent=1) + "\n").encode())
            durable_files.move(draft, place)
        self._move(part, State.undelivered)

    def requeue_undelivered(self) -> int:
        """Have what was refused for good offered once more; return the number of parts."""
        parts = self.parts(State.undelivered)
        for part in parts:
            durable_files.remove_file(part.folder / REFUSED)
            self._move(part, State.processed)
        return len(parts)

    def set_aside(self, part: Part, reasons: Mapping[str, str], *, keep: bool) -> None:
        """Take a part out of the way that holds nothing to process.

        Parameters
        ----------
        part
            A closed one.
        reasons
            Names of files in ``in/``, and why each was left out.
        keep
            Quarantine it; otherwise it is removed.
        """
        self._remove_or_quarantine(part, dict(reasons) if keep else {})

    def tidy(self, part: Part, reasons: Mapping[str, str]) -> None:
        """Remove a forwarded part, except for the inputs in `reasons`: they are quarantined."""
        place = part.folder / "reasons.json"
        if place.exists():  # an earlier attempt got further: the report may be gone
            reasons = json.loads(place.read_bytes())
        self._remove_or_quarantine(part, dict(reasons))

    def _remove_or_quarantine(self, part: Part, reasons: dict[str, str]) -> None:
        if not reasons:
            with self._lock:
                durable_files.move(part.folder, self.root / TRASH / part.name)
                self._bytes.pop(part.name, None)
            durable_files.remove_tree(self.root / TRASH / part.name)
            return
        place = part.folder / "reasons.json"
        if not place.exists():
            draft = self.incoming((json.dumps(reasons, indent=1) + "\n").encode())
            durable_files.move(draft, place)
        for path in sorted(part.inputs.iterdir()):
            if path.name not in reasons:
                durable_files.remove_file(path)
        durable_files.remove_tree(part.outputs)
        durable_files.remove_file(part.folder / "attempts")
        durable_files.sync_tree(part.folder)  # what is removed stays so: nobody tidies a quarantine
        self._move(part, State.quarantined)

    def _move(self, part: Part, state: State) -> Part:
        moved = Part(name=part.name, state=state, root=part.root)
        with self._lock:
            durable_files.move(part.folder, moved.folder)
            self._bytes[part.name] = durable_files.n_bytes_below(moved.folder)
        self.changes.note()
        return moved

    # What is there --------------------------------------------------------------------------

    def parts(self, state: State) -> list[Part]:
        """Return the parts in a state, oldest first."""
        return [Part(name=name, state=state, root=self.root) for name in self._names(state)]

    def counts(self) -> dict[State, int]:
        """Return how many parts are in each state."""
        counts = Counter({state: len(self._names(state)) for state in State})
        return {state: counts[state] for state in State}

    def n_bytes(self) -> int:
        """Return the bytes in the spool, as of the last step of each part."""
        with self._lock:
            return sum(self._bytes.values())

    def _reserved(self) -> float:
        """Bytes in the spool, with what processing of the received and closed parts will add."""
        unprocessed = {*self._names(State.received), *self._names(State.closed)}
        return sum(
            n * (1 + self.limits.growth if name in unprocessed else 1)
            for name, n in self._bytes.items()
        )

    def _names(self, state: State) -> list[str]:
        return sorted(entry.name for entry in (self.root / state).iterdir())

    def _exists(self, name: str) -> bool:
        return any((self.root / state / name).exists() for state in State)

    # Opening --------------------------------------------------------------------------------

    def _claim(self) -> IO[bytes]:
        try:
            import fcntl
        except ModuleNotFoundError as exc:
            raise OutputError("a spool needs file locks of Linux or macOS") from exc
        above = (one for one in (self.root, *self.root.parents) if not one.exists())
        self._made = tuple(above)  # the innermost first
        durable_files.make_folders(self.root)
        marker = self.root / MARKER
        if not marker.exists():
            # ``lost+found`` stands at the top of a file system of its own.
            if any(path.name not in ("lost+found", MARKER) for path in self.root.iterdir()):
                raise OutputError(
                    "the spool's folder holds something else", hint="name a new folder with --spool"
                )
            self._is_new = True
            durable_files.append(marker, LAYOUT)
        held = marker.open("rb+")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (layout := held.read()) not in (LAYOUT, b""):
                raise OutputError(f"the spool is of layout {layout[:8]!r}, expected {LAYOUT!r}")
            if not layout:  # a crash between creating and writing it
                durable_files.append(marker, LAYOUT)
        except BlockingIOError as exc:
            held.close()
            raise OutputError(
                "another process uses this spool", hint="name another folder with --spool"
            ) from exc
        except BaseException:
            held.close()
            raise
        return held

    def _recover(self) -> None:
        for name in (INCOMING, TRASH):
            durable_files.remove_tree(self.root / name)
        for name in (INCOMING, TRASH, SENT, *State):
            durable_files.make_folder(self.root / name)
        for state in State:
            for part in self.parts(state):
                self._bytes[part.name] = durable_files.n_bytes_below(part.folder)
        for part in self.parts(State.received):
            key = part.name[21:]
            # Of two open parts of a series (never made, but a person may copy), one may grow.
            if key in self._open:
                self._move(self._open[key].part, State.closed)
            corrections.keep_latest(part)
            instances = set(corrections.contents_of(part))
            self._open[key] = _Open(
                part=part,
                last=self._clock(),
                instances=instances,
                associations={"before the restart"},
            )


def _digest(*texts: str) -> str:
    """Return 24 digits that stand for texts: a UID from the network never becomes a path."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:24]
