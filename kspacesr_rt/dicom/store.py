"""Put derived slices on disk: whole or not at all, over nothing, in a place that is safe."""

from __future__ import annotations

import copy
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from kspacesr_rt.dicom.carried import shallow, write_elements
from kspacesr_rt.dicom.compress import compress, native_samples, require_lossless
from kspacesr_rt.dicom.failures import failing_the_file
from kspacesr_rt.dicom.header import PARSE_ERRORS, PIXEL_DATA, read_header
from kspacesr_rt.dicom.quiet import quiet_pydicom
from kspacesr_rt.dicom.uids import OUR_UID
from kspacesr_rt.errors import OutputError, SliceError, SliceFailed, system_says

REPORT_NAME: Final = "report.json"
MANIFEST_NAME: Final = "manifest.json"
"""Says with what parameters the outputs beside it were made."""
STATE_FOLDER: Final = ".kspacesr-rt"
"""Holds what a run needs to be completed after it was killed; see `kspacesr_rt.pipeline.folder`."""
_OURS_AT_TOP: Final = re.compile(r"(report|manifest)\.json|preview-[^/]*\.png")
_STATE: Final = re.compile(r"lock|journal(-[0-9a-f]+)?\.jsonl")
_TEMPORARY: Final = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part")
CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
WRITABLE: Final = (
    "look at its owner, its permissions, and whether its disk is full, mounted read-only or gone"
)
"""What to do about an output folder that cannot be written."""
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What `os.link` fails with on FAT, SMB and other file systems without hard links."""


def output_path(root_out: Path, dataset: Dataset) -> Path:
    """Return where an output belongs; names of inputs can carry a patient's and are not used."""
    return root_out / str(dataset.SeriesInstanceUID) / f"{dataset.SOPInstanceUID}.dcm"


def prepare_output(root_in: Path, root_out: Path, *, report: Path | None = None) -> None:
    """Make sure that a folder can be written to and that this harms nothing; touch nothing.

    Parameters
    ----------
    root_in
        The input, a folder or a file.
    root_out
        A new or empty folder, or one that holds outputs of this tool only (a run to resume).
    report
        Where the report goes, which may be a name of the user's in that folder.

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
    try:
        if place_out.exists():
            _require_only_ours(place_out, report)
        existing = next(place for place in (place_out, *place_out.parents) if place.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise OutputError("the output folder may not be written", hint=WRITABLE)
    except OutputError:
        raise
    except OSError as exc:
        raise OutputError(
            f"the output folder cannot be used: {system_says(exc)}", hint=WRITABLE
        ) from exc


def _same(one: Path, other: Path) -> bool:
    """Compare by identity too: mounts and case-blind file systems have several names for one."""
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False


def _require_only_ours(folder: Path, report: Path | None) -> None:
    if not folder.is_dir():
        raise OutputError("the output exists and is not a folder", hint="choose a new folder")
    own = report.name if report and _same(report.parent.resolve(), folder) else None
    path = next(_foreign(folder, own), None)
    if path is None:
        return
    if _is_name_of_ours(path.name):  # it names no patient then
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
    known = (_OURS_AT_TOP.fullmatch, _STATE.fullmatch, OUR_UID.fullmatch, is_output_name)
    return name == STATE_FOLDER or any(is_name(name) for is_name in known)


def _foreign(folder: Path, own: str | None) -> Iterator[Path]:
    """Yield what no run of this tool has put into an output folder; `own` is a name of a report."""
    for path in sorted(folder.iterdir()):
        if path.name == own:
            continue  # looked at when the report is
        if path.is_symlink() or not path.is_dir():
            if not _is_ours(path, _OURS_AT_TOP.fullmatch):
                yield path
        elif path.name == STATE_FOLDER:
            yield from (inner for inner in path.iterdir() if not _is_ours(inner, _STATE.fullmatch))
        elif is_output_folder(path.name):
            yield from (inner for inner in path.iterdir() if not _is_ours(inner, is_output_name))
        else:
            yield path


def _is_ours(path: Path, is_name: Callable[[str], object]) -> bool:
    leftover = _TEMPORARY.fullmatch(path.name)
    name = leftover["name"] if leftover else path.name
    if not is_name(name):
        return False
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:  # of a run that is under way: the lock will tell
        return True


def is_output_folder(name: str) -> bool:
    """Tell whether a name in an output folder is that of a derived series."""
    return OUR_UID.fullmatch(name) is not None


def is_output_name(name: str) -> bool:
    """Tell whether a name in a derived series' folder is that of an output."""
    return name.endswith(".dcm") and OUR_UID.fullmatch(name[: -len(".dcm")]) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed run left in an output folder it held alone.

    Raises
    ------
    OSError
        If one cannot be removed.
    """
    for pattern in (".*.part", "*/.*.part"):
        for path in folder.glob(pattern):
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def _untimed(stage: str) -> AbstractContextManager[None]:
    return nullcontext()


def write_atomically(
    dataset: Dataset,
    path: Path,
    *,
    syntax: UID | None = None,
    timed: Callable[[str], AbstractContextManager[None]] = _untimed,
) -> None:
    """Write a data set so that `path` is, at every moment, absent or complete.

    Parameters
    ----------
    dataset
        From `derive`, with `file_meta` and pixel data.
    path
        Must not exist; its folder is created.
    syntax
        A lossless one to compress the pixels with (`compress.SYNTAXES`); None leaves them native.
        The file is decoded and compared before it gets its name.
    timed
        Called with ``encode``, ``write`` and ``verify``; returns what to run each within.

    Raises
    ------
    OutputError
        If `path` exists, the disk is full, or other bytes are read back than were written. Nothing
        is left behind then, nor after an interrupt.
    SliceFailed
        If the data set cannot be encoded, or its file does not mean what it must.

    Notes
    -----
    The temporary file stands in the same folder under a name that is not ``.dcm``, since routers
    watch folders for those. It becomes `path` by a hard link, which fails if `path` exists,
    whereas a rename would replace it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    native = dataset
    try:
        with failing_the_file(), timed("encode"):
            if syntax is not None:
                dataset = _compressed(native, syntax)
            content = encode(dataset)
        with failing_the_file(), writing_outputs():
            with timed("write"):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_new(temporary, content)
            with timed("verify"):
                _verify(temporary, dataset, content)
                if syntax is not None:
                    require_lossless(dcmread(temporary), native_samples(native))
            with timed("write"):
                publish(temporary, path)
    finally:
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
        raise OutputError(f"an output cannot be written: {system_says(exc)}") from exc


def _compressed(native: Dataset, syntax: UID) -> Dataset:
    """Return a copy whose pixels are compressed; all else is shared."""
    packed = shallow(native, lambda tag: tag != PIXEL_DATA)
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


def _write_new(path: Path, content: bytes) -> None:
    # Mode 0666 less the umask, as any program creates files.
    descriptor = os.open(path, CREATE, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _verify(path: Path, dataset: Dataset, content: bytes) -> None:
    """Read the file back: a full disk can leave one that opens without an error.

    Bytes that are others than those written are the disk's fault; sound ones that do not mean what
    they must are this file's.
    """
    if path.read_bytes() != content:
        raise OutputError("an output reads back differently than it was written")
    try:
        with failing_the_file():
            header = read_header(path)
    except SliceError as exc:
        raise SliceFailed("unreadable", "the header holds values that cannot be read back") from exc
    if (
        header.dataset.get("SOPInstanceUID") != dataset.SOPInstanceUID
        or not header.complete
        or (not header.encapsulated and header.pixel_bytes != len(dataset.PixelData))
    ):
        raise SliceFailed("unreadable", "the header holds values that cannot be read back")


def stands_whole(path: Path, dataset: Dataset, *, trusted: bool = True) -> bool:
    """Tell whether an output stands under its name, and make room for it if it is cut off.

    Parameters
    ----------
    path
        Its name.
    dataset
        What belongs there.
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
        and header.complete
        and header.dataset.get("SOPInstanceUID") == dataset.SOPInstanceUID
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
