"""What a file of the input is, whatever its kind: DICOM by its content, a volume by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kspacesr_rt.dicom import Derivation, LeftOut, SourceSlice, examine_file
from kspacesr_rt.dicom.fast.repeated_skim import RepeatedSkim
from kspacesr_rt.dicom.source_digest import source_digest
from kspacesr_rt.errors import BackendUnavailableError, SliceSkipped
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.system.install_hints import install_hint
from kspacesr_rt.volumes import SourceVolume, examine_volume
from kspacesr_rt.volumes.reader import volume_digest
from kspacesr_rt.volumes.triage import EXTRA, library_problem


def input_examiner(root: Path, options: InferOptions) -> Callable[[Path], SourceSlice | LeftOut]:
    """Return what says of a regular file below `root` (or of `root`) what it is."""
    repeated = RepeatedSkim()

    def examine(path: Path) -> SourceSlice | LeftOut:
        found = examine_volume(
            path, root, plane=options.plane, include_derived=options.include_derived
        )
        if found is None:
            return examine_file(path, include_derived=options.include_derived, repeated=repeated)
        if isinstance(found, SourceVolume) and (refusal := _refusal(found, options.format)):
            return LeftOut.from_error(path, refusal)
        return found

    return examine


def _refusal(source: SourceVolume, wanted: str) -> SliceSkipped | None:
    """Return why a volume cannot be written in the format that is asked for."""
    if wanted == "dicom":
        return SliceSkipped(
            "no-patient",
            "says no patient, study and UIDs, without which a DICOM series would be made up",
            hint="--format same writes it as it is",
        )
    if wanted == "nifti" and source.kind != "nifti":
        return SliceSkipped(
            "no-geometry",
            "says no place and no millimetres, without which NIfTI would be made up",
            hint="--format same writes it as it is",
        )
    return None


def require_library(options: InferOptions) -> None:
    """Refuse ``--format nifti`` where nothing writes it.

    Raises
    ------
    BackendUnavailableError
        If nibabel is missing.
    """
    if options.format == "nifti" and (problem := library_problem("nifti")) is not None:
        raise BackendUnavailableError(problem, hint=install_hint(EXTRA))


def digest_of_source(source: SourceSlice, derivation: Derivation, matrix: Matrix) -> str:
    """Read a file for the digest of what of it would reach its output; see `source_digest`."""
    if isinstance(source, SourceVolume):
        return volume_digest(source)
    return source_digest(source, derivation, matrix)
