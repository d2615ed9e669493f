"""Walk a folder, look at every file, and sort the slices into series.

Every file becomes a `SourceSlice` or a `LeftOut`; no file makes a scan fail, and none is opened
that is not a regular file: reading a FIFO would wait for ever.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from kspacesr_rt.dicom.derive import kept_header_digest
from kspacesr_rt.dicom.enhanced.pixels import FrameReader
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.fast.repeated_skim import RepeatedSkim
from kspacesr_rt.dicom.fast.skim import skim_header
from kspacesr_rt.dicom.pixels import pixel_digest
from kspacesr_rt.dicom.source_slice import SourceSlice
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.errors import InputError, SliceError, SliceFailed, SliceSkipped, system_message

PROGRESS_EVERY: Final = 100
"""Files between two reports of progress: some hundredths of a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A file that is not processed, and why."""

    path: Path
    """The file (or the folder that could not be listed)."""
    outcome: Literal["skipped", "failed"]
    """``skipped``: not ours to process; ``failed``: ours, but broken."""
    reason: str
    """A word from the table in `triage`."""
    message: str
    """A sentence without any value of the file."""
    hint: str | None = None
    """What to do about it."""

    @classmethod
    def from_error(cls, path: Path, error: SliceError) -> LeftOut:
        """Record the error that a file raised."""
        return cls(
            path=path,
            outcome="failed" if isinstance(error, SliceFailed) else "skipped",
            reason=error.reason,
            message=str(error),
            hint=error.hint,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """The slices of one source series, in order of space, then of time."""

    uid: str
    """Series Instance UID of the source."""
    slices: tuple[SourceSlice, ...]
    """At least one."""

    @property
    def n_slices(self) -> int:
        """Slices to process, each frame of a multi-frame file counted."""
        return sum(item.n_frames or 1 for item in self.slices)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know about the series, each sentence once."""
        found = dict.fromkeys(text for item in self.slices for text in item.warnings)
        if len({item.matrix for item in self.slices}) > 1:
            found["slices differ in matrix"] = None
        return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What a folder holds."""

    series: tuple[Series, ...]
    """Ordered by study and series UID."""
    left_out: tuple[LeftOut, ...]
    """Ordered by path."""

    @property
    def n_slices(self) -> int:
        """Slices to process, each frame of a multi-frame file counted."""
        return sum(item.n_slices for item in self.series)


def scan_folder(
    root: Path,
    *,
    include_derived: bool = False,
    keep_private: bool = False,
    on_progress: Callable[[int], None] | None = None,
    examine: Callable[[Path], SourceSlice | LeftOut] | None = None,
) -> Scan:
    """Look at every file under a folder, or at one file.

    Parameters
    ----------
    root
        Walked recursively. Links inside it are read where they lead to regular files; links to
        folders are not followed.
    include_derived
        Take maps, projections, reformats and subtractions too.
    keep_private
        Outputs carry private elements: files that differ in them are no repetitions.
    on_progress
        Called with the number of files looked at, every `PROGRESS_EVERY` files and at the end.
        What it raises ends the scan.
    examine
        Says what a regular file is; None: `examine_file`, which knows DICOM alone.

    Raises
    ------
    InputError
        If `root` does not exist.
    """
    if not root.exists():
        raise InputError("the input does not exist", hint="name a folder of DICOM files")
    slices: list[SourceSlice] = []
    left_out: list[LeftOut] = []
    n_files, repeated = 0, RepeatedSkim()
    with quiet_pydicom():  # once for all of them
        for n_files, found in enumerate(_walk(root), start=1):
            if on_progress is not None and n_files % PROGRESS_EVERY == 0:
                on_progress(n_files)
            if isinstance(found, LeftOut):
                left_out.append(found)
                continue
            if examine is not None:
                looked = examine(found)
            else:
                looked = examine_file(found, include_derived=include_derived, repeated=repeated)
            if isinstance(looked, LeftOut):
                left_out.append(looked)
            else:
                slices.append(looked)
    if on_progress is not None and n_files % PROGRESS_EVERY:
        on_progress(n_files)
    return sort_into_series(slices, left_out, keep_private=keep_private)


def examine_file(
    path: Path, *, include_derived: bool = False, repeated: RepeatedSkim | None = None
) -> SourceSlice | LeftOut:
    """Return what a regular file is; `repeated` knows those that were examined before."""
    try:
        with as_slice_failure(), quiet_pydicom():  # once for both
            header = skim_header(path, None if repeated is None else repeated.read)
            return examine(header, path, include_derived=include_derived)
    except SliceError as exc:
        return LeftOut.from_error(path, exc)


def sort_into_series(
    slices: Iterable[SourceSlice], left_out: Iterable[LeftOut], *, keep_private: bool = False
) -> Scan:
    """Return single files as a scan: in order, and without those that are there twice."""
    unique, repeated = _without_duplicates(slices, keep_private=keep_private)
    return Scan(
        series=_sorted_series(unique),
        left_out=tuple(sorted([*left_out, *repeated], key=lambda item: os.fsencode(item.path))),
    )


def _walk(root: Path) -> Iterator[Path | LeftOut]:
    """Yield the regular files in order of their names, and what is not to be opened.

    No recursion: folders can be nested deeper than Python's stack.
    """
    # The root itself may be a link: the user named it.
    mode = root.stat().st_mode
    if not stat.S_ISDIR(mode):
        yield root if stat.S_ISREG(mode) else special_file(root, mode)
        return
    listings = [_listed(root)]
    while listings:
        if (entry := next(listings[-1], None)) is None:
            listings.pop()
            continue
        if isinstance(entry, LeftOut):
            yield entry
            continue
        path = Path(entry.path)
        try:
            # Folder listings tell folders and files apart; a status is a round trip on a share.
            if entry.is_dir(follow_symlinks=False):
                listings.append(_listed(path))
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                mode = status_of(entry).st_mode
                yield path if stat.S_ISREG(mode) else special_file(path, mode)
        except OSError as exc:
            yield LeftOut.from_error(
                path, SliceFailed("unreadable", f"no status: {system_message(exc)}")
            )


def _listed(folder: Path) -> Iterator[os.DirEntry[str] | LeftOut]:
    try:
        yield from sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as exc:
        error = SliceFailed("unreadable", f"the folder cannot be listed: {system_message(exc)}")
        yield LeftOut.from_error(folder, error)


def status_of(entry: os.DirEntry[str]) -> os.stat_result:
    """Return the status of what an entry of a folder leads to, or of a link that leads nowhere."""
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        with suppress(OSError):  # it dangles, or runs in a circle
            return entry.stat()
    return status


def special_file(path: Path, mode: int) -> LeftOut:
    """Return why what is no regular file, nor a link to one, is not opened."""
    if stat.S_ISLNK(mode):
        error = SliceSkipped("special-file", "a link that leads nowhere")
    elif stat.S_ISDIR(mode):
        # It may lead back to where it stands; links to files, as data managers stage them, cannot.
        error = SliceSkipped(
            "special-file",
            "a link to a folder; not followed",
            hint="name the folder that it leads to as the input",
        )
    else:
        error = SliceSkipped("special-file", "not a regular file; not opened")
    return LeftOut.from_error(path, error)


def _without_duplicates(
    slices: Iterable[SourceSlice], *, keep_private: bool
) -> tuple[list[SourceSlice], list[LeftOut]]:
    """Keep one of several files that tell the same; let files that contradict each other fail."""
    by_uid: defaultdict[str, list[SourceSlice]] = defaultdict(list)
    for item in slices:
        by_uid[item.sop_instance_uid].append(item)
    unique: list[SourceSlice] = []
    left_out: list[LeftOut] = []
    for same in by_uid.values():
        if len(same) == 1:
            unique += same
            continue
        by_digest: defaultdict[tuple[str, str], list[SourceSlice]] = defaultdict(list)
        for item in same:
            try:
                with as_slice_failure():
                    by_digest[_digests(item, keep_private=keep_private)].append(item)
            except SliceFailed as exc:
                left_out.append(LeftOut.from_error(item.path, exc))
        if len(by_digest) > 1:
            what = "pixels" if len({pixels for pixels, _ in by_digest}) > 1 else "header"
            error: SliceError = SliceFailed(
                "duplicate-conflict",
                f"shares its SOP Instance UID with a file that differs in its {what}",
                hint="which of them is right cannot be told: take the others away",
            )
            left_out += [LeftOut.from_error(item.path, error) for item in same]
            continue
        error = SliceSkipped("duplicate", "repeats another file in all that an output tells")
        for first, *others in by_digest.values():
            unique.append(first)
            left_out += [LeftOut.from_error(item.path, error) for item in others]
    return unique, left_out


def _place_of_series(series: tuple[tuple[str, str], list[SourceSlice]]) -> tuple[object, ...]:
    """Return what series are sorted by: their UIDs, or, without a study, by their files' paths."""
    key, found = series
    return (*key[:1], *(() if key[0] else map(os.fsencode, [found[0].path])), key[1])


def _digests(item: SourceSlice, *, keep_private: bool) -> tuple[str, str]:
    """Return digests of the pixels, the same for every transfer syntax, and of the header."""
    if item.n_frames is not None:
        reader = FrameReader(item)
        return reader.digest(), kept_header_digest(reader.take_header(), keep_private=keep_private)
    pixels, header = pixel_digest(item)
    return pixels, kept_header_digest(header, keep_private=keep_private)


def _sorted_series(slices: Iterable[SourceSlice]) -> tuple[Series, ...]:
    by_series: defaultdict[tuple[str, str], list[SourceSlice]] = defaultdict(list)
    for item in slices:
        by_series[item.study_instance_uid, item.series_instance_uid].append(item)
    return tuple(
        Series(
            uid=key[1],
            slices=tuple(sorted(found, key=lambda item: (item.order, item.sop_instance_uid))),
        )
        for key, found in sorted(by_series.items(), key=_place_of_series)
    )
