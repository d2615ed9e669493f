"""What volumes are called: as their sources are, with what was done to them (BIDS: ``desc-``).

A NIfTI file or an array says nothing of itself but its name, so that its result can be found by
nothing else. Reports and logs name neither, see `kspacesr_rt.volumes.output_names.output_label`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from kspacesr_rt.dicom.output_names import UID_NAME
from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.system.file_labels import digest_label
from kspacesr_rt.volumes.source_volume import VolumeKind

KINDS: Final[dict[str, VolumeKind]] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".npy": "npy",
    ".npz": "npz",
    ".hdf5": "hdf5",
    ".h5": "hdf5",
}
COMPANIONS: Final = (".json", ".bval", ".bvec")
"""Files beside an image that speak of it, as BIDS and dcm2niix have them."""
_ENDINGS: Final = "|".join(re.escape(end) for end in KINDS)
_BESIDE: Final = "|".join(re.escape(end) for end in COMPANIONS)
_LABEL: Final = r"[A-Za-z0-9]*SRx[0-9]+(?:v[0-9a-f]{12})?"
_STEM: Final = rf"(?:.+_)?desc-{_LABEL}(?:trust)?(?:_[A-Za-z0-9]+(?:-[A-Za-z0-9]+)?)*"
_OUTPUT: Final = re.compile(rf"{_STEM}(?:{_ENDINGS})", re.IGNORECASE)
_OURS: Final = re.compile(rf"{_STEM}(?:(?:{_ENDINGS})(?:\.json)?|{_BESIDE})", re.IGNORECASE)
_BIDS: Final = re.compile(
    r"(?P<entities>sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*)_(?P<suffix>[A-Za-z0-9]+)"
)
_DESC: Final = re.compile(r"_desc-(?P<label>[A-Za-z0-9]+)")
_RESULT: Final = re.compile(rf"(?<=desc-){_LABEL}(?=[_.]|$)")
_DIGITS: Final = 12


def ending_of(name: str) -> str:
    """Return the ending by which a file is a volume, as it is written; empty if it is none."""
    lower = name.lower()
    return next((name[-len(end) :] for end in KINDS if lower.endswith(end)), "")


def kind_of(name: str) -> VolumeKind | None:
    """Return the format that a name says; None for DICOM and all else."""
    return KINDS.get(ending_of(name).lower())


def stem_of(name: str) -> str:
    """Return a name without its ending."""
    return name.removesuffix(ending_of(name))


def companion_names(name: str) -> dict[str, str]:
    """Return what stands beside an image, by endings: BIDS' names, or of an array its own.

    An array may share its stem with a NIfTI file, and then the sidecar of that is not its own.
    """
    if kind_of(name) != "nifti":
        return {".json": f"{name}.json"}
    return {ending: stem_of(name) + ending for ending in COMPANIONS}


def trust_map_name(output: str) -> str:
    """Return what the trust map of a result is called: it stands beside that, and is as it is.

    Parameters
    ----------
    output
        Path of the result relative to the output folder, see `output_names`.
    """
    path = PurePosixPath(output)
    *_, last = _RESULT.finditer(path.name)
    return str(path.with_name(f"{path.name[: last.end()]}trust{path.name[last.end() :]}"))


def is_volume_output(name: str) -> bool:
    """Tell whether a file's name may be that of a result, or of a trust map of one."""
    return _OUTPUT.fullmatch(name) is not None


def is_volume_file(name: str) -> bool:
    """Tell whether a file's name may be that of a result, or of what stands beside one."""
    return _OURS.fullmatch(name) is not None


def output_names(
    relative: str, *, upscale: int, content_digest: str, template: str = ""
) -> Iterator[str]:
    """Yield the names of a result relative to the output folder, best first.

    Parameters
    ----------
    relative
        Of the source, relative to the input.
    upscale
        Of the run.
    content_digest
        SHA-256 of the result: where the first name is another result's, the next has its digits.
    template
        ``uid``: a hash stands for the name.
    """
    source = PurePosixPath(relative)
    stem, ending = stem_of(source.name), ending_of(source.name)
    folder = source.parent
    if template == UID_NAME:
        uid = int(stable_uid("volume", relative).removeprefix("2.25."))
        stem, folder = f"{uid:032x}", PurePosixPath()
    for label in (f"SRx{upscale}", f"SRx{upscale}v{content_digest[:_DIGITS]}"):
        yield str(folder / f"{_described(stem, label)}{ending}")


def _described(stem: str, label: str) -> str:
    """Return a stem with ``desc-``: before the suffix of a BIDS name, else at the end."""
    found = _BIDS.fullmatch(stem)
    if found is None:
        return f"{stem}_desc-{label}"
    if has_one := _DESC.search(stem):  # BIDS allows one
        return f"{stem[: has_one.end()]}{label}{stem[has_one.end() :]}"
    return f"{found['entities']}_desc-{label}_{found['suffix']}"


def entities_of(stem: str) -> tuple[dict[str, str], str]:
    """Return the entities and the suffix of a BIDS name; nothing if it is none."""
    found = _BIDS.fullmatch(stem)
    if found is None:
        return {}, ""
    pairs = (part.partition("-") for part in found["entities"].split("_"))
    return {key: value for key, _, value in pairs}, found["suffix"]


def output_label(output: str, *, show_path: bool) -> str:
    """Name a result in a report: a volume's is called as its source, so perhaps as a patient."""
    if show_path or not is_volume_output(PurePosixPath(output.replace("\\", "/")).name):
        return output
    return digest_label(output)
