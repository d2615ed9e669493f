"""What a file of volumes is: a source, or why not, in the reason words of DICOM and some more.

``complex``, ``no-reconstruction`` and ``sidecar`` are skipped; ``bad-values`` and
``missing-library`` fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom import LeftOut
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.errors import BackendUnavailableError, SliceError, SliceFailed, SliceSkipped
from kspacesr_rt.system.install_hints import install_hint
from kspacesr_rt.volumes.output_names import entities_of, kind_of, stem_of
from kspacesr_rt.volumes.reader import READERS
from kspacesr_rt.volumes.sidecar import Beside, belongs_to_image
from kspacesr_rt.volumes.source_volume import Plane, SourceVolume, VolumeKind, volume_uid

MISSING: Final = "missing-library"
_LIBRARIES: Final[dict[VolumeKind, tuple[str, str]]] = {
    "nifti": ("nibabel", "NIfTI"),
    "hdf5": ("h5py", "fastMRI's HDF5"),
}
EXTRA: Final = "nifti"
"""Of `pyproject.toml`: nibabel and h5py."""
DICM_AT: Final = 128
_NOT_IMAGES: Final = frozenset({"mask", "dseg", "probseg", "events", "physio"})
_PHASE: Final = frozenset({"phase", "phase1", "phase2", "phasediff", "fieldmap"})
_PARTS: Final = frozenset({"phase", "real", "imag"})
_NOT_MR: Final = frozenset({"pet", "ct", "photo"})
"""Suffixes, and values of ``part-``, of BIDS (its schema, objects/suffixes)."""


def examine_volume(
    path: Path, root: Path, *, plane: Plane = "auto", include_derived: bool = False
) -> SourceVolume | LeftOut | None:
    """Return what a file is, by its name; None if that is left to DICOM.

    Parameters
    ----------
    path
        A regular file.
    root
        The input: a folder that holds it, or itself.
    plane
        Which slices a volume is cut into.
    include_derived
        Take maps, too.
    """
    kind = kind_of(path.name)
    try:
        with as_slice_failure():
            if kind is None:
                if belongs_to_image(path):
                    raise SliceSkipped("sidecar", "belongs to an image beside it")
                return None
            if _is_dicom(path):
                return None
            return _examined(path, root, kind, plane, include_derived=include_derived)
    except SliceError as exc:
        return LeftOut.from_error(path, exc)


def _examined(
    path: Path, root: Path, kind: VolumeKind, plane: Plane, *, include_derived: bool
) -> SourceVolume:
    _refuse_by_name(path, include_derived=include_derived)
    if (problem := library_problem(kind)) is not None:
        raise SliceFailed("missing-library", problem, hint=install_hint(EXTRA))
    beside = Beside.of(path)
    if beside.is_of_our_output:
        raise SliceSkipped("already-derived", "was written by kspacesr-rt")
    volume = READERS[kind](path, plane)
    relative = path.name if path == root else path.relative_to(root).as_posix()
    uid = volume_uid(relative)
    return SourceVolume(
        path=path,
        sop_class_uid="",
        sop_instance_uid=uid,
        series_instance_uid=uid,
        study_instance_uid="",
        matrix=volume.layout.matrix,
        order=(0.0,),
        warnings=(*volume.warnings, *beside.warnings),
        n_frames=volume.layout.n_slices,
        kind=kind,
        relative=relative,
        plane=plane,
        layout=volume.layout,
        dropped=volume.dropped,
    )


def library_problem(kind: VolumeKind) -> str | None:
    """Return why a format cannot be read here; None if it can."""
    if kind not in _LIBRARIES or find_spec(_LIBRARIES[kind][0]) is not None:
        return None
    library, name = _LIBRARIES[kind]
    return f"{name} needs {library}, which is not installed"


def missing_library(left_out: Iterable[LeftOut]) -> BackendUnavailableError | None:
    """Return the error of an input of which nothing is left because a library is missing."""
    for one in left_out:
        if one.reason == MISSING:
            return BackendUnavailableError(one.message, hint=one.hint)
    return None


def _is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, whatever its name says."""
    with path.open("rb") as file:
        return file.read(DICM_AT + 4)[DICM_AT:] == b"DICM"


def _refuse_by_name(path: Path, *, include_derived: bool) -> None:
    """Skip what BIDS calls something else than an image of magnitudes."""
    entities, suffix = entities_of(stem_of(path.name))
    if suffix in _NOT_IMAGES:
        raise SliceSkipped("not-an-image", "is a mask or a segmentation, by its name")
    if suffix in _PHASE or entities.get("part") in _PARTS:
        raise SliceSkipped("phase", "a phase, real or imaginary image, by its name")
    if suffix in _NOT_MR:
        raise SliceSkipped("not-mr", "is no MR image, by its name")
    if suffix.endswith("map") and not include_derived:
        raise SliceSkipped("derived-map", "is a map, by its name")
