"""Outputs of what the input no longer says: found, named, and kept or replaced as the user says.

An output is stale if its source says something else now (the output has another UID then), or if
its source is gone from a series that is still there: a run of this input into an empty folder would
not write it. Outputs of series that are not in the input at all are none of this run's business:
studies may be processed one after the other into one folder.

What is known to be stale from the journal is known before the work, and a run that was not told
what to do about it ends there. Of outputs that no journal knows, their headers tell the source;
that is looked up once a finished run has not come to them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom import Scan, Series, SourceSlice
from kspacesr_rt.dicom.output_source import source_uid_of
from kspacesr_rt.dicom.store import UNUSABLE
from kspacesr_rt.errors import StaleOutputError, failing_the_output
from kspacesr_rt.pipeline.journal_entries import digest_of_sources
from kspacesr_rt.pipeline.output_folder import Journal
from kspacesr_rt.pipeline.previews import preview_of
from kspacesr_rt.pipeline.report import SliceRecord, StaleRecord
from kspacesr_rt.system.file_labels import label_to_show
from kspacesr_rt.volumes import is_volume_output
from kspacesr_rt.volumes.output_files import standing_files
from kspacesr_rt.volumes.sidecar import companions_of, source_uid_beside

CHANGED: Final = "source-changed"
GONE: Final = "source-gone"
UNCLAIMED: Final = "unclaimed"
"""Nothing tells what it was made from, and no source of the input gives it."""
WATCH_HINT: Final = (
    "--stale replace removes them once what is new is there; --stale keep leaves them beside it"
)


class StaleOutputs:
    """What of an output folder its input no longer says."""

    def __init__(
        self, output: Path, journal: Journal, scan: Scan, *, show_paths: bool = False
    ) -> None:
        """Look at the folder, before anything is written there.

        Parameters
        ----------
        output
            The folder.
        journal
            Its journal.
        scan
            The input.
        show_paths
            Name files of the input by their path.

        Raises
        ------
        OutputError
            If that is not possible.
        """
        self._output = output
        self._sources = {one.sop_instance_uid for series in scan.series for one in series.slices}
        self._known: dict[str, StaleRecord] = {}
        self._elsewhere: set[str] = set()
        """Outputs that the journal knows, of series that are not in the input."""
        self._folders: set[str] = set()
        """Those of derived series that something in the input has, or had, an output in."""
        unclaimed = standing_outputs(output)
        if not (unclaimed and journal):
            return
        for series in scan.series:
            for source in series.slices:
                noted_now = journal.match(source)
                if noted_now is not None:
                    unclaimed.discard(noted_now.record.output)
        self._look_at_maps(journal, scan, unclaimed)
        found: dict[str, tuple[str, str]] = {}
        for noted in journal.all_entries():
            name = noted.record.output
            if noted.source in self._sources:
                self._folders.add(_folder(name))
            if name in unclaimed and found.get(name, ("",))[0] not in self._sources:
                found[name] = noted.source, noted.record.file
        for name, (uid, file) in found.items():
            if (reason := self._reason(name, uid)) is None:
                self._elsewhere.add(name)
            else:
                self._known[name] = StaleRecord(
                    output=name,
                    file=label_to_show(file, show_path=show_paths),
                    sop_instance_uid=uid,
                    reason=reason,
                )

    def _look_at_maps(self, journal: Journal, scan: Scan, unclaimed: set[str]) -> None:
        """Take trust maps that say what the input does off the unclaimed; know the others.

        A map is about all slices of its series: one slice that comes, goes or changes makes it
        stale, though the outputs of the others are not.
        """
        in_scan = {series.uid: series for series in scan.series}
        for noted in journal.all_trust_maps():
            name = noted.output
            if name not in unclaimed:
                continue
            unclaimed.discard(name)
            series = in_scan.get(noted.series)
            if series is None:
                self._elsewhere.add(name)
            elif noted.sources != sources_now(journal, series, noted.matrix):
                self._known[name] = StaleRecord(output=name, reason=CHANGED)

    def _reason(self, name: str, source_uid: str) -> str | None:
        """Return why an output that no source gives is stale; None if it is of another input."""
        if source_uid in self._sources:
            return CHANGED
        if _folder(name) not in self._folders:
            return None
        return GONE if source_uid else UNCLAIMED

    def refuse(self) -> None:
        """Refuse to go on over what is known to be stale.

        Raises
        ------
        StaleOutputError
            If there is any.
        """
        if self._known:
            raise StaleOutputError(
                describe_stale(self._known.values()), hint=_hint(len(self._known))
            )

    def refused(self) -> list[StaleRecord]:
        """Return what `refuse` speaks of."""
        return [self._known[name].handled_as("refused") for name in sorted(self._known)]

    def settle_stale(
        self,
        records: Collection[SliceRecord],
        handling: str,
        *,
        finished: bool,
        maps: Collection[str] = (),
    ) -> list[StaleRecord]:
        """Do what the user wants about what is stale after a run, and return all of it.

        Parameters
        ----------
        records
            What became of every file of the input.
        handling
            ``refuse``, ``keep`` or ``replace``.
        finished
            Whether the run came to every file. Otherwise nothing is removed.
        maps
            Trust maps that say what the input does, relative to the output folder.

        Returns
        -------
            Also what nobody claims in folders of other series, always as kept: it is named, and
            left to whoever made it.

        Raises
        ------
        OutputError
            If one cannot be removed.
        """
        current = {one.output for one in records if one.output}.union(maps)
        failed = {about for one in records if one.outcome == "failed" for about in _about(one)}
        stale = {name: one for name, one in self._known.items() if name not in current}
        foreign: set[str] = set()
        if finished:
            found, foreign = self._of_no_journal(current)
            stale |= found
        settled = []
        for name in sorted(stale):
            one = stale[name]
            # A share that was away for a moment is no reason to throw results away.
            is_uncertain = _about(one) & failed if one.file else failed
            if name in foreign:
                pass
            elif handling == "replace" and finished and not is_uncertain:
                remove_output(self._output, name)
                one = one.handled_as("removed")
            elif handling == "refuse":
                one = one.handled_as("refused")
            settled.append(one)
        return settled

    def _of_no_journal(self, current: set[str]) -> tuple[dict[str, StaleRecord], set[str]]:
        """Return what no source gives and no journal knows, and what of it is not ours to judge."""
        left = standing_outputs(self._output) - current - self._known.keys() - self._elsewhere
        sources = {name: _source_of(self._output / name) for name in left}
        self._folders |= {_folder(name) for name in current}
        self._folders |= {_folder(name) for name, uid in sources.items() if uid in self._sources}
        found, foreign = {}, set()
        for name, uid in sources.items():
            reason = self._reason(name, uid)
            if reason is None and not uid:
                reason = UNCLAIMED
                foreign.add(name)
            if reason is not None:
                found[name] = StaleRecord(output=name, sop_instance_uid=uid, reason=reason)
        return found, foreign


def sources_now(journal: Journal, series: Series, matrix: tuple[int, int]) -> str:
    """Return the digest of what the slices of one matrix of a series say now.

    Empty if one has no output yet that is noted.
    """
    noted = [journal.match(one) for one in series.slices if one.matrix == matrix]
    known = [one for one in noted if one is not None]
    return digest_of_sources(known) if known and len(known) == len(noted) else ""


def _about(record: SliceRecord | StaleRecord) -> set[str]:
    file = record.file and label_to_show(record.file, show_path=False)
    return {file, record.sop_instance_uid} - {""}


def stale_of(
    output: Path,
    journal: Journal,
    source: SourceSlice,
    *,
    current: str = "",
    show_paths: bool = False,
) -> list[StaleRecord]:
    """Return the outputs of a source that stand and are not its `current` one."""
    outputs = {
        one.record.output: one.record.file for one in journal.entries_of(source.sop_instance_uid)
    }
    return [
        StaleRecord(
            output=name,
            file=label_to_show(file, show_path=show_paths),
            sop_instance_uid=source.sop_instance_uid,
            reason=CHANGED,
        )
        for name, file in sorted(outputs.items())
        if name != current and os.path.lexists(output / name)
    ]


def describe_stale(stale: Iterable[StaleRecord]) -> str:
    """Return what is wrong in one sentence, without a name of anybody."""
    counts = Counter(one.reason for one in stale)
    parts = [
        f"{n} of sources that {what}"
        for n, what in (
            (counts[CHANGED], "have changed since"),
            (counts[GONE], "are not in the input any more, though their series is"),
        )
        if n
    ]
    return f"the output folder holds stale outputs: {', '.join(parts)}"


def _hint(n_stale: int) -> str:
    these = "this 1 output" if n_stale == 1 else f"these {n_stale} outputs"
    them = "it" if n_stale == 1 else "them"
    return (
        f"--stale replace deletes {these} once the run is done (-v names {them}); "
        f"--stale keep leaves {them} beside what is new"
    )


def _folder(name: str) -> str:
    """Return the folder of a derived series; a volume is a series by itself, wherever it lies."""
    path = Path(name)
    return name if is_volume_output(path.name) else str(path.parent)


def _source_of(path: Path) -> str:
    """Return what tells the source of an output; empty if nothing does."""
    return source_uid_beside(path) if is_volume_output(path.name) else source_uid_of(path)


def standing_outputs(output: Path) -> set[str]:
    """Return the names of all outputs in a folder, relative to it.

    Raises
    ------
    OutputError
        If it cannot be listed.
    """
    with failing_the_output(UNUSABLE):
        return set(standing_files(output))


def remove_output(output: Path, name: str) -> None:
    """Remove an output, its series' contact sheet, and its folder if that is empty then.

    Raises
    ------
    OutputError
        If that is not possible.
    """
    path = output / name
    with failing_the_output("a stale output cannot be removed"):
        path.unlink(missing_ok=True)
        if is_volume_output(path.name):
            for beside in (
                *companions_of(path).values(),
                output / f"preview-{preview_of(name)}.png",
            ):
                beside.unlink(missing_ok=True)
            return
    with suppress(OSError):  # others stand in it
        path.parent.rmdir()
        (output / f"preview-{preview_of(name)}.png").unlink(missing_ok=True)
