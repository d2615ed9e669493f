"""Write the result of a volume: slice by slice, into a file without a name until it is whole."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Collection, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom import Derivation, writing_outputs
from kspacesr_rt.dicom.store import create_new, publish
from kspacesr_rt.errors import OutputError, SliceError, SliceFailed
from kspacesr_rt.system.durability import sync_file, sync_folder
from kspacesr_rt.volumes.layout import SliceJoiner, Stored, read_exactly
from kspacesr_rt.volumes.output_names import output_names
from kspacesr_rt.volumes.provenance import description
from kspacesr_rt.volumes.sidecar import companions_of, source_uid_beside
from kspacesr_rt.volumes.source_volume import SourceVolume
from kspacesr_rt.volumes.volume import ByteSink, Volume

NAME_MAX: Final = 255 - len(".") - len(".01234567.part") - len("v0123456789ab")
"""Bytes of a result's name: what file systems have, less what temporary and second names add."""


class VolumeWriter:
    """The result of one volume, on its way to its name."""

    def __init__(
        self,
        root: Path,
        source: SourceVolume,
        volume: Volume,
        derivation: Derivation,
        *,
        template: str = "",
    ) -> None:
        """Begin the file, below its folder, under a name that is none.

        Parameters
        ----------
        root
            The output folder.
        source, volume
            What it is made from.
        derivation
            What is done.
        template
            ``uid``: the output is called by a hash.

        Raises
        ------
        OutputError
            If that is not possible.
        SliceFailed
            ``too-large``: its format cannot hold the result.
        """
        self._root, self._source, self._derivation = root, source, derivation
        self._template = template
        self._written, self.fresh, self.replaced = hashlib.sha256(), True, False
        [first, *_] = self._names("0" * 64)
        name = Path(first).name
        if len(os.fsencode(name)) > NAME_MAX:
            raise SliceFailed(
                "too-large", "its name leaves no room for that of a result", hint="--name uid"
            )
        self._temporary = (root / first).with_name(f".{name}.{secrets.token_hex(4)}.part")
        self._result = volume.result(self._temporary, derivation)
        self._layout = self._result.layout
        self._joiner = SliceJoiner(self._layout)
        self._open = ExitStack()
        with writing_outputs(), ExitStack() as opening:
            os.close(create_new(self._temporary))
            opening.callback(self._remove)
            self._sink: ByteSink = self._open.enter_context(
                self._result.begin(description(derivation))
            )
            opening.pop_all()

    def add(self, slices: Iterable[Stored]) -> None:
        """Append the next slices of the result.

        Raises
        ------
        OutputError
            If the disk is full, say.
        """
        for chunk in self._joiner.chunks(slices):
            self._written.update(chunk)
            with writing_outputs():
                self._sink.write(chunk)

    def finish(
        self,
        beside: dict[str, bytes],
        *,
        noted: str = "",
        replaceable: Collection[str] = (),
        durable: bool = True,
    ) -> Path:
        """Complete the file, read it back, and give it its name.

        Parameters
        ----------
        beside
            What is to stand beside it, by endings.
        noted
            The output, relative to the root, that is noted of what the source says now.
        replaceable
            Those of what it said before, if they are to be replaced.
        durable
            Whether it is on the disk before it gets its name; the name is not yet.

        Returns
        -------
            Its path. `fresh` is False then if it stood there; `replaced` tells whether another
            file stood there that was to be replaced.

        Raises
        ------
        OutputError
            If it cannot be written, or reads back differently.
        """
        with writing_outputs():
            self._open.close()
            digest = _digest_once_closed(self._temporary, durable=durable)
            require_same_samples(self._result, self._written.digest())
            path = self._place(digest, noted, replaceable)
            _put_all(path, beside, durable=durable)
            if self.fresh and self.replaced:
                self._temporary.replace(path)
            elif self.fresh:
                publish(self._temporary, path)
        self._remove()
        return path

    def close(self) -> None:
        """Remove what has no name yet."""
        with suppress(Exception):  # of a file that is thrown away
            self._open.close()
        self._remove()

    def _names(self, digest: str) -> list[str]:
        return list(
            output_names(
                self._source.relative,
                upscale=self._derivation.upscale,
                content_digest=digest,
                template=self._template,
            )
        )

    def _place(self, digest: str, noted: str, replaceable: Collection[str]) -> Path:
        """Return the first name that is free, or the output's own already."""
        for name in self._names(digest):
            path = self._root / name
            # Two sources of one name but for their endings would share a sidecar.
            owner = source_uid_beside(path)
            if str(Path(name)) != noted and owner not in ("", self._source.sop_instance_uid):
                continue
            if not _stands(path):
                return path
            if _digest_of(path) == digest:
                self.fresh = False
                return path
            relative = str(Path(name))
            if relative == noted or relative in replaceable:
                self.replaced = True
                return path
        raise OutputError(
            "every name that an output could have is another's", hint="choose another folder"
        )

    def _remove(self) -> None:
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
            folder = self._temporary.parent
            while folder != self._root:  # one that was made for it alone
                folder.rmdir()
                folder = folder.parent


def write_beside(
    volume: Volume,
    slices: Iterable[Stored],
    path: Path,
    said: str,
    beside: dict[str, bytes],
    *,
    durable: bool = True,
) -> bool:
    """Write a whole volume beside what it is made from, in place of an earlier one.

    Parameters
    ----------
    volume
        What to write, under a path that is none of a result.
    slices
        Its slices, in their order.
    path
        Where it goes.
    said
        What was done.
    beside
        What is to stand beside it, by endings.
    durable
        Whether it is on the disk then, under its name.

    Returns
    -------
        Whether it was not there already, byte for byte.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    joiner, written = SliceJoiner(volume.layout), hashlib.sha256()
    try:
        with writing_outputs():
            os.close(create_new(volume.path))
            with volume.begin(said) as sink:
                for chunk in joiner.chunks(slices):
                    written.update(chunk)
                    sink.write(chunk)
            digest = _digest_once_closed(volume.path, durable=durable)
            require_same_samples(volume, written.digest())
            _put_all(path, beside, durable=durable)
            fresh = not _stands(path) or _digest_of(path) != digest
            if fresh:
                volume.path.replace(path)
            if durable:
                sync_folder(path.parent)
            return fresh
    finally:
        with suppress(OSError):
            volume.path.unlink(missing_ok=True)


def require_same_samples(volume: Volume, digest: bytes) -> None:
    """Read the samples of a file back through its format: they must be those that were written.

    Raises
    ------
    OutputError
        If they are not.
    """
    again, layout = hashlib.sha256(), volume.layout
    try:
        with volume.samples() as source:
            for _ in range(layout.n_bytes // layout.chunk_bytes):
                again.update(read_exactly(source, layout.chunk_bytes))
    except SliceError as exc:
        raise OutputError("an output cannot be read back after it was written") from exc
    if again.digest() != digest:
        raise OutputError("an output reads back differently than it was written")


def _digest_once_closed(path: Path, *, durable: bool) -> str:
    with path.open("r+b") as file:
        if durable:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_all(output: Path, beside: dict[str, bytes], *, durable: bool) -> None:
    for ending, companion in companions_of(output).items():
        if ending in beside:
            _put(companion, beside[ending], durable=durable)


def _put(path: Path, content: bytes, *, durable: bool) -> None:
    """Write what stands beside an output, unless it stands there."""
    if _stands(path) and path.read_bytes() == content:
        if durable:  # whoever put it there
            sync_file(path)
        return
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(create_new(partial), "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _stands(path: Path) -> bool:
    """Tell whether a file stands under a name, or nothing; no name is quoted, it is the source's.

    Raises
    ------
    OutputError
        If something else than a file does.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OutputError(
                "something else than a file stands under an output's name",
                hint="remove it, or choose another folder",
            )
    except FileNotFoundError:
        return False
    return True
