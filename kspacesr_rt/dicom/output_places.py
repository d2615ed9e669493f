"""Where an output stands already, or belongs: found by what files are, whatever they are called.

A name is taken only if nothing else has it, and before a name is taken, every name that the output
may have been given is looked at. So a run that is begun again finds what stands, under the names of
another template and of a run that was killed, and writes nothing twice; and which of two outputs
was there first decides about a name at most.

A name is given once: as long as anything knows it as that of one output, no other one gets it, even
after it was removed. Who keeps a list of names, as the journal of a run does, is never wrong then.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pydicom.dataset import Dataset

from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.output_names import (
    UID_NAME,
    NameTemplate,
    fields_of,
    folders_of,
    is_output_folder,
    is_output_name,
    parsed_name,
    short_uids,
)
from kspacesr_rt.errors import OutputError, SliceError

_BY_UID = parsed_name(UID_NAME)


class OutputPlaces:
    """The places in one output folder, for one run; may be asked by several threads.

    Parameters
    ----------
    root
        The output folder.
    template
        How new outputs are called.
    upscale, model
        Of the run.
    known
        Whether an output, by its path relative to `root`, is known as that of a certain source: it
        is offered for that one as `earlier`, and not looked into for others.
    """

    def __init__(
        self,
        root: Path,
        template: NameTemplate,
        *,
        upscale: int,
        model: str,
        known: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self._root, self.template = root, template
        self._upscale, self._model, self._known = upscale, model, known
        self._lock = threading.Lock()
        self._folders: list[str] | None = None
        """Those that stood when something was first asked for."""
        self._begun_by_uid: set[str] = set()
        self._named: dict[tuple[NameTemplate, str, tuple[str, ...]], tuple[str, ...]] = {}
        """Names of folders that were asked for."""
        self._owners: dict[str, str] = {}
        """Series of each folder that was looked into."""
        self._unrecorded: dict[str, dict[str, Path]] = {}
        """By series: outputs that nobody knew when it was first asked for, by their UID."""
        self._claims: dict[Path, str] = {}
        """UIDs of outputs that will have these names, and do not have them yet."""
        self._claiming = threading.Lock()

    def claim(self, place: OutputPlace, uid: str) -> Path:
        """Return where an output stands, or the name it will have; nobody else gets it until then.

        Raises
        ------
        OutputError, OSError
            As `OutputPlace.path` does.
        """
        with self._claiming:
            path = place.path(uid)
            self._claims[path] = uid
            return path

    def release(self, path: Path) -> None:
        """Note that an output has its name, or will not get it."""
        self._claims.pop(path, None)

    def fields_of(self, source: Dataset) -> dict[str, str]:
        """Return what names say of an output, but for its UIDs, by the header of its source."""
        return fields_of(source, self.template, upscale=self._upscale, model=self._model)

    def of(
        self,
        series_uid: str,
        fields: Mapping[str, str],
        *,
        repeated: bool = False,
        earlier: Iterable[str] = (),
        noted: str = "",
    ) -> OutputPlace:
        """Return the place of an output.

        Parameters
        ----------
        series_uid
            Of the output.
        fields
            From `fields_of`.
        repeated
            Whether another slice of the series has the same instance number.
        earlier
            Outputs that this source is known to have had, relative to the root.
        noted
            The one of them that is of what the source says now.

        Raises
        ------
        OSError
            If the folder cannot be read.
        """
        with self._lock:
            template = self._template_of(series_uid)
            unrecorded = self._unrecorded[series_uid]
            key = (template, series_uid, template.of_folder(fields))
            if key not in self._named:  # the slices of a series ask for the same
                self._named[key] = template.folders(fields, series_uid)
            folder = self._folder(self._named[key], series_uid)
        return OutputPlace(
            folder=self._root / folder,
            names=lambda uid: template.files(fields, uid, repeated=repeated),
            given=lambda name: self._known(f"{folder}{os.sep}{name}"),
            noted=self._root / noted,
            claimed=lambda path: self._claims.get(path, ""),
            elsewhere=lambda uid: [
                *(self._root / name for name in earlier),
                *([unrecorded[uid]] if uid in unrecorded else []),
            ],
        )

    def _template_of(self, series_uid: str) -> NameTemplate:
        """Look at what stands of a series, once; one that was begun by UID is gone on with so."""
        if series_uid not in self._unrecorded:
            if self._folders is None:
                self._folders = _names_in(self._root, is_output_folder)
            if series_uid in self._folders and _outputs_in(self._root / series_uid):
                self._begun_by_uid.add(series_uid)
            self._unrecorded[series_uid] = dict(self._unknown_of(series_uid, self._folders))
        return _BY_UID if series_uid in self._begun_by_uid else self.template

    def _folder(self, names: tuple[str, ...], series_uid: str) -> str:
        """Return the first folder that no other series has."""
        for name in names:
            if name == series_uid:
                return name
            if self._owners.get(name) is None:
                self._owners[name] = self._series_in(self._root / name) or series_uid
            if self._owners[name] == series_uid:
                return name
        raise OutputError(
            "every folder that a series could have is another's", hint="use --name uid"
        )

    def _series_in(self, folder: Path) -> str:
        """Return the series of the outputs in a folder; empty if there is none."""
        for path in _outputs_in(folder):
            if uid := _uid_in(path, "SeriesInstanceUID"):
                return uid
        return ""

    def _unknown_of(self, series_uid: str, folders: list[str]) -> Iterator[tuple[str, Path]]:
        """Yield the outputs of a series that stand, and that nobody knows the source of."""
        for name in folders_of(folders, series_uid):
            for path in _outputs_in(self._root / name):
                if not self._known(str(path.relative_to(self._root))) and (
                    uid := _uid_in(path, "SOPInstanceUID")
                ):
                    yield uid, path


class OutputPlace:
    """Where one output belongs, once its UID is known."""

    def __init__(
        self,
        *,
        folder: Path,
        names: Callable[[str], Iterable[str]],
        given: Callable[[str], bool] = lambda name: False,
        noted: Path | None = None,
        claimed: Callable[[Path], str] = lambda path: "",
        elsewhere: Callable[[str], Iterable[Path]] = lambda uid: (),
    ) -> None:
        self.folder = folder
        """Where new ones go."""
        self._names, self._given, self._elsewhere = names, given, elsewhere
        self._noted, self._claimed = noted, claimed

    @classmethod
    def by_uid(cls, root: Path, series_uid: str) -> OutputPlace:
        """Return the place of an output that is called by its UIDs."""
        return cls(folder=root / series_uid, names=lambda uid: (f"{uid}.dcm",))

    def path(self, uid: str) -> Path:
        """Return where an output stands, or else the first name that is free for it.

        A file that says nothing, since it is cut off or was overwritten, is one of ours that has to
        be made again: its name is as good as free.

        Raises
        ------
        OutputError
            If something else than a file has such a name.
        OSError
            If a file cannot be looked at.
        """
        for path in self._elsewhere(uid):
            if is_file(path) and _uid_in(path, "SOPInstanceUID") == uid:
                return path
        free: Path | None = None
        for name in self._names(uid):
            path = self.folder / name
            stands = is_file(path)
            holds = self._claimed(path)
            holds = holds or (_uid_in(path, "SOPInstanceUID") if stands else "")
            if holds == uid:
                return path
            if free is not None:
                continue
            stem = path.stem
            is_own = path == self._noted or stem == uid  # whatever was put there since
            if is_own or (not holds and not self._is_given(name, stem, uid)):
                free = path
        if free is None:
            raise OutputError(
                "every name that an output could have is another's", hint="use --name uid"
            )
        return free

    def _is_given(self, name: str, stem: str, uid: str) -> bool:
        """Return whether a name is another output's; one that ends in this one's UID is not."""
        return self._given(name) and not stem.endswith((uid, *short_uids(uid)))


def is_file(path: Path) -> bool:
    """Tell whether a file stands under an output's name, or nothing.

    Raises
    ------
    OutputError
        If something else does (a link to a file of the input, say). It is left as it is.
    OSError
        If that cannot be seen.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OutputError(
                f"another file stands under an output's name: {path.parent.name}/{path.name}",
                hint="remove it, or choose another folder",
            )
    except FileNotFoundError:
        return False
    return True


def _uid_in(path: Path, keyword: str) -> str:
    """Return a UID that a file says; empty if it says none."""
    try:
        with as_slice_failure():
            return str(read_header(path).dataset.get(keyword) or "")
    except SliceError:
        return ""


def _outputs_in(folder: Path) -> list[Path]:
    return [folder / name for name in _names_in(folder, is_output_name)]


def _names_in(folder: Path, is_name: Callable[[str], bool]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if is_name(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
