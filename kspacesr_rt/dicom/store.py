"""Put derived slices on disk: whole or not at all, over nothing, in a place that is safe."""

from __future__ import annotations

import copy
import errno
import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from kspacesr_rt.dicom.compress import compress, native_samples, require_lossless
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.fast.skim import Skim, SkimmedHeader, skim_content
from kspacesr_rt.dicom.header import PARSE_ERRORS, PIXEL_DATA, Header, parse_header, read_header
from kspacesr_rt.dicom.output_names import is_free_of_patient_data, is_output_folder, is_output_name
from kspacesr_rt.dicom.output_source import source_uid_of
from kspacesr_rt.dicom.raw_header import selected_elements, write_elements
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.uids import OUR_UID
from kspacesr_rt.errors import (
    OutputError,
    SliceError,
    SliceFailed,
    failing_the_output,
    system_message,
)

MANIFEST_NAME: Final = "manifest.json"
"""Says with what parameters the outputs beside it were made."""
STATE_FOLDER: Final = ".kspacesr-rt"
"""Holds what a run needs to be completed after it was killed; see
`kspacesr_rt.pipeline.output_folder`."""
_OURS_AT_TOP: Final = re.compile(r"(report|manifest)\.json|preview-[^/]*\.png")
_STATE: Final = re.compile(r"lock|journal(-[0-9a-f]+)?\.jsonl")
_TEMPORARY: Final = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part")
CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
ATTEMPTS: Final = 8
"""To create a file in a folder that others may take away while it is empty."""
UNUSABLE: Final = "the output folder cannot be used"
WRITABLE: Final = (
    "look at its owner, its permissions, and whether its disk is full, mounted read-only or gone"
)
"""What to do about an output folder that cannot be written."""
READ_BYTES: Final = 1 << 16
"""Bytes that are read back at a time, 64 KiB: what fits into a cache, and is no new memory."""
Part = memoryview
"""Bytes of a file; of one dimension."""
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What `os.link` fails with on FAT, SMB and other file systems without hard links."""


def output_path(root_out: Path, dataset: Dataset) -> Path:
    """Return where an output belongs that is called by its UIDs alone.

    See `kspacesr_rt.dicom.output_places` for what runs call theirs.
    """
    return root_out / str(dataset.SeriesInstanceUID) / f"{dataset.SOPInstanceUID}.dcm"


def prepare_output(
    root_in: Path,
    root_out: Path,
    *,
    report: Path | None = None,
    is_other_output: Callable[[str], bool] = lambda name: False,
) -> None:
    """Make sure that a folder can be written to and that this harms nothing; touch nothing.

    Parameters
    ----------
    root_in
        The input, a folder or a file.
    root_out
        A new or empty folder, or one that holds outputs of this tool only (a run to resume).
    report
        Where the report goes, which may be a name of the user's in that folder.
    is_other_output
        Whether a name is that of an output that is no DICOM; such may lie in folders of any name.

    Raises
    ------
    OutputError
        If the output is, lies inside or contains the input, holds anything that is not this
        tool's, or may not be written.
    """
    place_in, place_out = root_in.resolve(), root_out.resolve()
    hint = "choose a new folder outside the input"
    if _same(place_in, place_out):
        raise OutputError("the output is the input itself", hint=hint)
    if any(_same(place_in, parent) for parent in place_out.parents):
        raise OutputError("the output lies inside the input", hint=hint)
    if any(_same(place_out, parent) for parent in place_in.parents):
        raise OutputError("the output contains the input", hint=hint)
    with failing_the_output(UNUSABLE, WRITABLE):
        if place_out.exists():
            _require_only_ours(place_out, report, is_other_output)
        existing = next(place for place in (place_out, *place_out.parents) if place.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise OutputError("the output folder may not be written", hint=WRITABLE)


def _same(one: Path, other: Path) -> bool:
    """Compare by identity too: mounts and case-blind file systems have several names for one."""
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False


def _require_only_ours(
    folder: Path, report: Path | None, is_other_output: Callable[[str], bool]
) -> None:
    if not folder.is_dir():
        raise OutputError("the output exists and is not a folder", hint="choose a new folder")
    own = report.name if report and _same(report.parent.resolve(), folder) else None
    path = next(_foreign(folder, own, is_other_output), None)
    if path is None:
        return
    strangers = path.is_dir() and is_output_folder(path.name)  # a folder called like ours
    # If every name is as ours are, it names no patient.
    if not strangers and all(map(_is_name_of_ours, path.relative_to(folder).parts)):
        raise OutputError(
            "the output folder holds files that are not outputs of this tool: "
            f"{path.relative_to(folder)}",
            hint="remove it",
        )
    raise OutputError(
        "the output folder holds files that are not outputs of this tool",
        hint="choose a new or empty folder",
    )


def _is_name_of_ours(name: str) -> bool:
    known = (_OURS_AT_TOP.fullmatch, _STATE.fullmatch, is_free_of_patient_data)
    return name == STATE_FOLDER or any(is_name(name) for is_name in known)


def _foreign(
    folder: Path, own: str | None, is_other_output: Callable[[str], bool]
) -> Iterator[Path]:
    """Yield what no run of this tool has put into an output folder; `own` is a name of a report."""
    begun = (folder / MANIFEST_NAME).exists()
    for path in sorted(folder.iterdir()):
        if path.name == own:
            continue  # looked at when the report is
        if path.is_symlink() or not path.is_dir():
            if not (_is_ours(path, _OURS_AT_TOP.fullmatch) or _is_ours(path, is_other_output)):
                yield path
        elif path.name == STATE_FOLDER:
            yield from (inner for inner in path.iterdir() if not _is_ours(inner, _STATE.fullmatch))
        elif is_output_folder(path.name) and (begun or _holds_ours(path)):
            yield from (
                inner
                for inner in path.iterdir()
                if not (_is_ours(inner, is_output_name) or _is_ours(inner, is_other_output))
            )
        else:
            inside = list(_files_in(path))
            named_as_a_file = _OURS_AT_TOP.fullmatch(path.name) or is_other_output(path.name)
            begun_there = begun or any(_is_ours(inner, is_other_output) for inner in inside)
            if named_as_a_file or not begun_there:
                yield path
            yield from (inner for inner in inside if not _is_ours(inner, is_other_output))


def _files_in(folder: Path) -> Iterator[Path]:
    """Yield all that is no folder, however deep."""
    waiting = [folder]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)
            else:
                yield path


def _holds_ours(folder: Path) -> bool:
    """Tell whether a folder of such a name is that of a series of ours, by the first that says."""
    files = [path for path in sorted(folder.iterdir()) if is_output_name(path.name)]
    return bool(OUR_UID.fullmatch(folder.name)) or not files or any(map(source_uid_of, files[:9]))


def _is_ours(path: Path, is_name: Callable[[str], object]) -> bool:
    leftover = _TEMPORARY.fullmatch(path.name)
    name = leftover["name"] if leftover else path.name
    if not is_name(name):
        return False
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:  # of a run that is under way: the lock will tell
        return True


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed run left in an output folder it held alone.

    Raises
    ------
    OSError
        If one cannot be removed.
    """
    for path in folder.rglob(".*.part"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def remove_drafts_of(path: Path) -> None:
    """Remove the temporary files of one output, whose writer was lost; errors are left alone."""
    with suppress(OSError):
        for one in path.parent.iterdir():
            found = _TEMPORARY.fullmatch(one.name)
            if found is not None and found["name"] == path.name:
                _remove(one)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """What was written, and read back."""

    size: int
    """Bytes."""
    sha256: str
    """Of them; by parts where the pixels have a digest, see `kspacesr_rt.dicom.content_digest`."""


class OutputDraft:
    """An output that is written and verified, and has no name yet; a context manager.

    Its temporary file stands in the same folder under a name that is not ``.dcm``, since routers
    watch folders for those. It is open until it was synced: what the system could not write later
    is told to those who had it open then.
    """

    def __init__(self, path: Path, temporary: Path, descriptor: int, stored: StoredFile) -> None:
        self.path, self.stored = path, stored
        self.temporary = temporary
        """What it is called until it has its name."""
        self._descriptor: int | None = descriptor

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        if self._descriptor is None:
            raise RuntimeError("the draft is closed")
        return self._descriptor

    def sync(self) -> None:
        """Put the content on the disk.

        Raises
        ------
        OSError
            If the disk is full, say.
        """
        os.fsync(self.descriptor)

    def publish(self) -> None:
        """Give it its name.

        By a hard link, which fails if there is such a file, whereas a rename would replace it.

        Raises
        ------
        OSError
            If it is not written after all, as network shares say when a file is closed; as
            FileExistsError, if the name is taken.
        """
        try:
            self._close()
            publish(self.temporary, self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave nothing that has no name; a second time is no error."""
        with suppress(OSError):
            self._close()
        _remove(self.temporary)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()


def _untimed(stage: str) -> AbstractContextManager[None]:
    return nullcontext()


def write_atomically(
    dataset: Dataset,
    path: Path,
    *,
    syntax: UID | None = None,
    timed: Callable[[str], AbstractContextManager[None]] = _untimed,
) -> StoredFile:
    """Write a data set so that `path` is, at every moment, absent or complete.

    Parameters
    ----------
    dataset, path, syntax, timed
        As for `draft_dataset`.

    Returns
    -------
        What the file holds.

    Raises
    ------
    OutputError
        If `path` exists, the disk is full, or other bytes are read back than were written. Nothing
        is left behind then, nor after an interrupt.
    SliceFailed
        If the data set cannot be encoded, or its file does not mean what it must.
    """
    with (
        draft_dataset(dataset, path, syntax=syntax, timed=timed) as draft,
        as_slice_failure(),
        writing_outputs(),
        timed("write"),
    ):
        draft.sync()
        draft.publish()
    return draft.stored


def draft_dataset(
    dataset: Dataset,
    path: Path,
    *,
    syntax: UID | None = None,
    timed: Callable[[str], AbstractContextManager[None]] = _untimed,
) -> OutputDraft:
    """Write a data set, and read it back; it has no name yet.

    Parameters
    ----------
    dataset
        From `derive`, with `file_meta` and pixel data.
    path
        Will be its name, and must not exist; its folder is created.
    syntax
        A lossless one to compress the pixels with (`compress.SYNTAXES`); None leaves them native.
        The file is decoded and compared.
    timed
        Called with ``encode``, ``write`` and ``verify``; returns what to run each within.

    Raises
    ------
    OutputError
        If the disk is full, or other bytes are read back than were written. Nothing is left behind
        then, nor after an interrupt.
    SliceFailed
        If the data set cannot be encoded, or its file does not mean what it must.
    """
    native = dataset
    with as_slice_failure(), timed("encode"):
        if syntax is not None:
            dataset = _compressed(native, syntax)
        content = encode(dataset)

    def require_meaning() -> None:
        n_pixel_bytes = len(dataset.PixelData)
        header = partial(parse_header, io.BytesIO(content))
        _require_meaning(header, str(dataset.SOPInstanceUID), n_pixel_bytes)
        if syntax is not None:
            require_lossless(dcmread(io.BytesIO(content)), native_samples(native))

    return _draft(
        (memoryview(content),),
        path,
        require_meaning,
        lambda: hashlib.sha256(content).hexdigest(),
        timed,
    )


def draft_encoded(
    parts: Sequence[Part],
    path: Path,
    *,
    uid: str,
    n_pixel_bytes: int,
    digest: str,
    read: Callable[[Skim], SkimmedHeader] = Skim.header,
    timed: Callable[[str], AbstractContextManager[None]] = _untimed,
) -> OutputDraft:
    """Write an output that is encoded; see `draft_dataset`.

    Parameters
    ----------
    parts
        Of the file, one after another, from `kspacesr_rt.dicom.series_encoder`: the first has all
        that stands before the pixels.
    path
        Will be its name, and must not exist; its folder is created.
    uid, n_pixel_bytes
        What is to be found when it is read back: its SOP Instance UID, and its pixels' bytes.
    digest
        Of the parts, see `kspacesr_rt.dicom.content_digest`.
    read
        Reads the header then.
    timed
        Called with ``write`` and ``verify``.
    """
    return _draft(
        parts,
        path,
        lambda: _require_meaning(partial(skim_content, parts, read), uid, n_pixel_bytes),
        lambda: digest,
        timed,
    )


def _draft(
    parts: Sequence[Part],
    path: Path,
    require_meaning: Callable[[], None],
    digest: Callable[[], str],
    timed: Callable[[str], AbstractContextManager[None]],
) -> OutputDraft:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with as_slice_failure(), writing_outputs(), ExitStack() as failing:
        with timed("write"):
            failing.callback(_remove, temporary)
            descriptor = _write_new(temporary, parts)
            failing.callback(os.close, descriptor)
        with timed("verify"):
            # A full disk can leave a file that opens without an error.
            if not reads_back(temporary, parts):
                raise OutputError("an output reads back differently than it was written")
            require_meaning()  # of what was written, and so of the file
            stored = StoredFile(size=sum(map(len, parts)), sha256=digest())
        failing.pop_all()
    return OutputDraft(path, temporary, descriptor, stored)


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


@contextmanager
def writing_outputs() -> Iterator[None]:
    """Tell what the system says, in the block, of our own files: it concerns the whole run.

    Raises
    ------
    OutputError
        If one exists already, the disk is full, and the like.
    """
    try:
        yield
    except (OutputError, SliceError):
        raise
    except FileExistsError as exc:
        raise OutputError(
            "an output of this name exists already", hint="remove it, or choose another folder"
        ) from exc
    except OSError as exc:
        if exc.errno is None:  # pydicom's own, about a value
            raise
        raise OutputError(f"an output cannot be written: {system_message(exc)}") from exc


def _compressed(native: Dataset, syntax: UID) -> Dataset:
    """Return a copy whose pixels are compressed; all else is shared."""
    packed = selected_elements(native, lambda tag: tag != PIXEL_DATA)
    packed.file_meta, packed.preamble = copy.deepcopy(native.file_meta), native.preamble
    packed.PixelData = native.PixelData
    compress(packed, syntax)
    return packed


def encode(dataset: Dataset) -> bytes:
    """Return a data set as the bytes of a file.

    Raises
    ------
    SliceFailed
        ``unreadable``: it has kept a value of its source that cannot be written.
    """
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    try:
        with quiet_pydicom():
            buffer.write((dataset.preamble or bytes(128)) + b"DICM")
            write_file_meta_info(buffer, dataset.file_meta, enforce_standard=True)
            write_elements(buffer, dataset)
    except (RecursionError, MemoryError):
        raise  # as what they are
    except (OSError, *PARSE_ERRORS) as exc:  # OSError: of no system, a buffer has none
        raise SliceFailed("unreadable", "the header holds values that cannot be written") from exc
    return buffer.getvalue()


def create_new(path: Path) -> int:
    """Create a file, and its folder if that is missing; return its descriptor, for writing.

    A file that fails takes its folder away if it was alone there; if that comes in between, the
    folder is made again.

    Raises
    ------
    OSError
        If that is not possible, or the file exists.
    """
    attempts = 0
    # The folder is there already for all but the first of a series.
    with suppress(FileExistsError, FileNotFoundError, NotADirectoryError):
        return os.open(path, CREATE, 0o666)
    while True:
        attempts += 1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Mode 0666 less the umask, as any program creates files.
            return os.open(path, CREATE, 0o666)
        except (FileExistsError, FileNotFoundError):  # `mkdir` raises the former, too
            if attempts == ATTEMPTS or path.exists():
                raise


def _write_new(path: Path, parts: Sequence[Part]) -> int:
    """Write a file that is new, and return its descriptor."""
    descriptor = create_new(path)
    try:
        for part in parts:
            rest = part
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def reads_back(path: Path, parts: Sequence[Part]) -> bool:
    """Return whether a file holds parts of bytes, one after another, and nothing else."""
    read = np.empty(READ_BYTES, np.uint8)
    with path.open("rb", buffering=0) as file:
        for part in parts:
            rest = part
            while rest:
                n_read = file.readinto(read[: len(rest)].data)
                written = np.frombuffer(rest[:n_read], np.uint8)
                if not n_read or not np.array_equal(read[:n_read], written):
                    return False
                rest = rest[n_read:]
        return not file.read(1)


def _require_meaning(
    read: Callable[[], Header | SkimmedHeader], uid: str, n_pixel_bytes: int
) -> None:
    """Refuse a file whose bytes are sound and do not mean what they must: its own fault."""
    try:
        with as_slice_failure():
            header = read()
    except SliceError as exc:
        raise SliceFailed("unreadable", "the header holds values that cannot be read back") from exc
    if (
        header.dataset.get("SOPInstanceUID") != uid
        or not header.complete
        or (not header.encapsulated and header.pixel_bytes != n_pixel_bytes)
    ):
        raise SliceFailed("unreadable", "the header holds values that cannot be read back")


def is_complete_output(path: Path, uid: str, *, trusted: bool = True) -> bool:
    """Tell whether an output stands under its name, and make room for it if it is cut off.

    Parameters
    ----------
    path
        Its name.
    uid
        SOP Instance UID of what belongs there.
    trusted
        Whether a file of that name that does not end early is believed; if not, it goes.

    Raises
    ------
    OutputError
        If something else than a file stands there (a link to a file of the input, say). It is left
        as it is.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OutputError(
                f"another file stands under an output's name: {path.parent.name}/{path.name}",
                hint="remove it, or choose another folder",
            )
    except FileNotFoundError:
        return False
    try:
        header = read_header(path)
    except SliceError:
        header = None
    if (
        trusted
        and header is not None
        and header.pixel_tag is not None  # what is cut before its pixels is a sound file without
        and header.complete
        and header.dataset.get("SOPInstanceUID") == uid
    ):
        return True
    # The name is a hash of what belongs there, in a folder that holds our outputs only.
    path.unlink(missing_ok=True)
    return False


def publish(temporary: Path, path: Path) -> None:
    """Give a finished temporary file its final name.

    Raises
    ------
    FileExistsError
        If `path` exists: it is never replaced.
    """
    try:
        path.hardlink_to(temporary)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        # Claim the name, then replace our own empty claim: still never over someone's file.
        os.close(os.open(path, CREATE, 0o666))
        try:
            temporary.replace(path)
        except BaseException:  # an interrupt too must not leave the empty claim
            path.unlink(missing_ok=True)
            raise
