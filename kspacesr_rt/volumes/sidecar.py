"""What stands beside an image: BIDS' JSON, kept and completed, and the directions of diffusion."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from kspacesr_rt.dicom import Derivation
from kspacesr_rt.dicom.file_limits import current_limits
from kspacesr_rt.dicom.provenance import derivation_text
from kspacesr_rt.dicom.uids import TOOL_NAME
from kspacesr_rt.volumes.output_names import (
    COMPANIONS,
    companion_names,
    entities_of,
    kind_of,
    stem_of,
)

OF_THE_GRID: Final = ("ReconMatrixPE", "EffectiveEchoSpacing")
"""Fields that count the stored samples along phase encoding; the second is the readout's time over
their number (BIDS, MRI common metadata), so that both are wrong of another matrix."""
OUR_KEY: Final = "KspaceSuperResolution"


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """What stands beside a source."""

    fields: dict[str, Any] = field(default_factory=dict)
    """Of its JSON."""
    others: dict[str, bytes] = field(default_factory=dict)
    """Files that are copied, by their endings."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, image: Path) -> Beside:
        """Read what stands beside an image; what cannot be read is said, and left out."""
        fields: dict[str, Any] = {}
        others, warnings = {}, []
        for ending, name in companion_names(image.name).items():
            path = image.with_name(name)
            content = _content(path)
            if content is None:
                if path.exists():
                    warnings.append(f"the {ending} beside it cannot be read, and is left out")
            elif ending == ".json":
                try:
                    found = json.loads(content)
                except (ValueError, RecursionError):
                    found = None
                if isinstance(found, dict):
                    fields = found
                else:
                    warnings.append("the .json beside it is no sidecar, and is left out")
            else:
                others[ending] = content
        return cls(fields=fields, others=others, warnings=tuple(warnings))

    @property
    def is_of_our_output(self) -> bool:
        """Whether the image is one of ours, by what its sidecar says."""
        return OUR_KEY in self.fields

    def content(self) -> bytes:
        """Return all of it, for a digest."""
        return repr((sorted(self.fields.items(), key=repr), sorted(self.others.items()))).encode()


def sidecar(
    beside: Beside,
    derivation: Derivation,
    *,
    source: str,
    source_uid: str,
    said: str = "",
    slice_axis: int,
) -> bytes:
    """Return the JSON of a result: that of its source, with what was done and without what is old.

    Parameters
    ----------
    beside
        What stands beside the source.
    derivation
        What was done.
    source
        Path of the source relative to the input; empty if it is not to be named.
    source_uid
        What stands for it.
    said
        Its description, if its own header has one.
    slice_axis
        The axis that slices lie along, counted from 0.
    """
    fields = {name: value for name, value in beside.fields.items() if name not in OF_THE_GRID}
    if isinstance(kinds := fields.get("ImageType"), list):
        fields["ImageType"] = ["DERIVED", "SECONDARY", *kinds[2:]]
    made_by = fields.get("GeneratedBy")
    own = _origin(derivation, source_uid=source_uid, slice_axis=slice_axis)
    own["Removed"] = sorted(beside.fields.keys() & set(OF_THE_GRID))
    if said:
        own["SourceDescription"] = said
    fields["GeneratedBy"] = [
        *(made_by if isinstance(made_by, list) else []),
        {
            "Name": TOOL_NAME,
            "Version": derivation.tool_version,
            "Description": derivation_text(derivation),
        },
    ]
    if source:
        is_bids = bool(entities_of(stem_of(PurePosixPath(source).name))[0])
        fields["Sources"] = [f"bids::{source}" if is_bids else source]
    fields[OUR_KEY] = own
    return (json.dumps(fields, indent=2) + "\n").encode()


def trust_map_sidecar(
    derivation: Derivation, *, output: str, source_uid: str, slice_axis: int, coverage: float
) -> bytes:
    """Return the JSON of a trust map: what its values are, and of which result.

    Parameters
    ----------
    derivation
        What made the result.
    output
        Name of the result, which stands beside the map.
    source_uid
        What stands for the source of the result.
    slice_axis
        The axis that slices lie along, counted from 0.
    coverage
        Share of samples that are expected within plus or minus the values.
    """
    own: dict[str, Any] = {"TrustMapOf": output, "Coverage": coverage}
    own |= _origin(derivation, source_uid=source_uid, slice_axis=slice_axis)
    fields: dict[str, Any] = {
        "Description": "Half-width of the interval around each sample of the image, in its unit",
        "GeneratedBy": [{"Name": TOOL_NAME, "Version": derivation.tool_version}],
        OUR_KEY: own,
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def _origin(derivation: Derivation, *, source_uid: str, slice_axis: int) -> dict[str, Any]:
    """Return what a sidecar of ours says of how its image was made, and from which."""
    return {
        "Upscale": derivation.upscale,
        "SliceAxis": slice_axis,
        "Model": derivation.model,
        "WeightsSHA256": derivation.weights_sha256,
        "SourceUID": source_uid,
    }


def source_uid_beside(output: Path) -> str:
    """Return what stands for the source of a result; empty if nothing beside it says so."""
    own = Beside.of(output).fields.get(OUR_KEY)
    uid = own.get("SourceUID") if isinstance(own, dict) else None
    return uid if isinstance(uid, str) else ""


def belongs_to_image(path: Path) -> bool:
    """Tell whether a file is a companion of an image that stands beside it."""
    if path.suffix.lower() not in COMPANIONS:
        return False
    images = [path.stem + ending for ending in (".nii", ".nii.gz")]
    if kind_of(path.stem) is not None and path.suffix == ".json":
        images.append(path.stem)
    return any(path.with_name(name).is_file() for name in images)


def companions_of(output: Path) -> dict[str, Path]:
    """Return where the companions of a result stand, or would, by endings."""
    names = companion_names(output.name)
    return {ending: output.with_name(name) for ending, name in names.items()}


def _content(path: Path) -> bytes | None:
    """Return what a companion holds; None if there is none, or it is no file of bounded size."""
    try:
        if not path.is_file() or path.stat().st_size > current_limits().extra:
            return None
        return path.read_bytes()
    except OSError:
        return None
