"""Outputs of what the input no longer says: found, named, and kept or replaced as the user says.

An output is stale if its source has changed in anything that the output tells (it has another name
then) or is not in the input any more: a run into an empty folder would not write it. Every file in
the folder is looked at, whatever journals know. What of them is known to be stale is known before
the work, and a run that was not told what to do about it ends there; the rest (after a journal was
lost, say) is whatever a finished run did not come to.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom import Scan, SourceSlice
from kspacesr_rt.dicom.store import is_output_folder, is_output_name
from kspacesr_rt.errors import OutputError, StaleOutputError
from kspacesr_rt.pipeline.folder import Journal
from kspacesr_rt.report import SliceRecord, StaleRecord

CHANGED: Final = "source-changed"
GONE: Final = "source-gone"
UNCLAIMED: Final = "unclaimed"
"""Nothing tells what it was made from, and no source of the input gives it."""
HINT: Final = (
    "--stale replace removes them once the run is done; --stale keep leaves them beside what is new"
)


class StaleOutputs:
    """What of an output folder its input no longer says."""

    def __init__(self, output: Path, journal: Journal, scan: Scan) -> None:
        """Look at the folder, before anything is written there.

        Raises
        ------
        OutputError
            If that is not possible.
        """
        self._output = output
        sources = {one.sop_instance_uid: one for series in scan.series for one in series.slices}
        self._standing = standing_outputs(output)
        unclaimed = set(self._standing)
        if unclaimed and journal:
            for source in sources.values():
                if (noted := journal.match(source)) is not None:
                    unclaimed.discard(noted.record.output)
        self._known: dict[str, StaleRecord] = {}
        self._files: dict[str, str] = {}
        if unclaimed and journal:
            for noted in journal.all_noted():
                name = noted.record.output
                if name in unclaimed:
                    self._files[name] = noted.record.file
                    self._known[name] = StaleRecord(
                        output=name,
                        sop_instance_uid=noted.source,
                        reason=CHANGED if noted.source in sources else GONE,
                    )

    def refuse(self) -> None:
        """Refuse to go on over what is known to be stale.

        Raises
        ------
        StaleOutputError
            If there is any.
        """
        if self._known:
            raise StaleOutputError(told(self._known.values()), hint=HINT)

    def settle(
        self, records: Collection[SliceRecord], handling: str, *, finished: bool
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

        Raises
        ------
        OutputError
            If one cannot be removed.
        """
        current = {one.output for one in records if one.output}
        failed = {one.file for one in records if one.outcome == "failed"}
        failed |= {one.sop_instance_uid for one in records if one.outcome == "failed"} - {""}
        stale = {name: one for name, one in self._known.items() if name not in current}
        if finished:
            for name in standing_outputs(self._output) - current - stale.keys():
                stale[name] = StaleRecord(output=name, reason=UNCLAIMED)
        settled = []
        for name in sorted(stale):
            one = stale[name]
            # A share that was away for a moment is no reason to throw results away.
            doubtful = failed if one.reason == UNCLAIMED else self._about(one) & failed
            if handling == "replace" and finished and not doubtful:
                remove_output(self._output, name)
                one = one.handled_as("removed")
            elif handling == "refuse":
                one = one.handled_as("refused")
            settled.append(one)
        return settled

    def _about(self, one: StaleRecord) -> set[str]:
        return {self._files.get(one.output, ""), one.sop_instance_uid} - {""}


def stale_of(
    output: Path, journal: Journal, source: SourceSlice, *, current: str = ""
) -> list[StaleRecord]:
    """Return the outputs of a source that stand and are not its `current` one."""
    return [
        StaleRecord(output=name, sop_instance_uid=source.sop_instance_uid, reason=CHANGED)
        for name in sorted({one.record.output for one in journal.noted(source.sop_instance_uid)})
        if name != current and os.path.lexists(output / name)
    ]


def told(stale: Iterable[StaleRecord]) -> str:
    """Return what is wrong in one sentence, without a name of anybody."""
    found = list(stale)
    counts = {reason: sum(one.reason == reason for one in found) for reason in (CHANGED, GONE)}
    parts = [
        f"{n} of sources that {what}"
        for n, what in (
            (counts[CHANGED], "have changed since"),
            (counts[GONE], "are not in the input any more"),
        )
        if n
    ]
    return f"the output folder holds stale outputs: {', '.join(parts)}"


def standing_outputs(output: Path) -> set[str]:
    """Return the names of all outputs in a folder, relative to it.

    Raises
    ------
    OutputError
        If it cannot be listed.
    """
    try:
        return set(_standing(output))
    except OSError as exc:
        raise OutputError(f"the output folder cannot be used: {exc.strerror or exc}") from exc


def _standing(output: Path) -> Iterator[str]:
    with os.scandir(output) as folders:
        for folder in folders:
            if is_output_folder(folder.name) and folder.is_dir(follow_symlinks=False):
                with os.scandir(folder.path) as files:
                    for file in files:
                        if is_output_name(file.name):
                            yield f"{folder.name}{os.sep}{file.name}"


def remove_output(output: Path, name: str) -> None:
    """Remove an output, its series' contact sheet, and its folder if that is empty then.

    Raises
    ------
    OutputError
        If that is not possible.
    """
    path = output / name
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise OutputError(f"a stale output cannot be removed: {exc.strerror or exc}") from exc
    with suppress(OSError):  # others stand in it
        path.parent.rmdir()
        (output / f"preview-{path.parent.name}.png").unlink(missing_ok=True)
