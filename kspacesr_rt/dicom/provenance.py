"""How a derived slice says where it comes from: references, codes, equipment and text.

Nothing here knows a path, a host, a user or a command line, so none can reach a data set.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final, Literal

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from kspacesr_rt.dicom.attributes import items
from kspacesr_rt.dicom.uids import TOOL_NAME, stable_uid
from kspacesr_rt.kspace import SampleGrid
from kspacesr_rt.system.output_time import fixed_time, in_local_time, output_time

SPATIAL_RESAMPLING: Final = ("113085", "DCM", "Spatial resampling")
"""PS3.16 CID 7203; it holds no code for super-resolution."""
SOURCE_FOR_PROCESSING: Final = ("121322", "DCM", "Source image for image processing operation")
"""PS3.16 CID 7202."""
PROCESSING_EQUIPMENT: Final = ("109102", "DCM", "Processing Equipment")
"""PS3.16 CID 7005."""

ST_MAX: Final = 1024
"""Characters in a short text (PS3.5 6.2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivation:
    """Everything about a run that its outputs tell, and that their UIDs depend on."""

    upscale: int
    """SR samples per source sample and axis."""
    backend: str
    """What ran the model, such as ``ort-cpu``."""
    model: str
    """Name of the model, or of the baseline."""
    weights_sha256: str | None
    """SHA-256 of the model's weights; None for a baseline."""
    graph_sha256: str | None = None
    """SHA-256 of the model's graph, which the same weights can have in several precisions."""
    tool_version: str
    """Version of this package."""
    synthetic: bool = False
    """The model was trained adversarially and may invent detail: Synthetic Data becomes YES."""
    uids: Literal["stable", "random"] = "stable"
    """``stable``: the same input gives the same UIDs again; ``random``: new ones per run."""
    keep_private: bool = False
    """Keep private elements."""
    options: tuple[str, ...] = ()
    """Other settings that change pixels (``on-interpolated=crop``): they enter the UIDs."""
    cropped_to: tuple[int, int] | None = None
    """LR rows and columns, if the scanner's interpolation was cropped away first."""
    sample_grid: SampleGrid = "kspace"
    """Where the model's samples lie, see `kspacesr_rt.kspace.sample_origin`."""
    precision: str = "fp32"
    """What the CNN computed in."""
    tier: str = "exact"
    """What was promised of it, see `kspacesr_rt.conversion.parity.TIERS`."""
    contract: str = ""
    """Of a network that is not ours: what is declared of it, in a clause; it enters no UID, the
    model's own digests do."""
    instead_of: str = ""
    """Name of the model that would have computed it, had the series not been outside its limits."""
    outside: tuple[str, ...] = ()
    """Reason words of these limits."""
    run_salt: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False, repr=False)
    """What makes the UIDs of this run differ from any other run's, if `uids` is ``random``."""

    def __post_init__(self) -> None:
        """Reject what no run can be."""
        if self.upscale < 1:
            raise ValueError(f"upscale {self.upscale} is less than 1")
        if self.uids not in ("stable", "random"):
            raise ValueError(f"uids {self.uids!r} is neither 'stable' nor 'random'")

    @property
    def identity(self) -> tuple[Any, ...]:
        """What the UIDs of a run hang on, as JSON values."""
        return (
            TOOL_NAME,
            self.tool_version,
            self.upscale,
            self.backend,
            self.model,
            self.weights_sha256,
            self.graph_sha256,
            self.synthetic,
            self.keep_private,
            [*self.options, *self._geometry, *self._promised, *self._replaced],
            self.run_salt if self.uids == "random" else None,
        )

    @property
    def _geometry(self) -> list[str]:
        """What places the samples elsewhere than usual; empty for most runs."""
        cropped = [f"cropped-to={self.cropped_to}"] if self.cropped_to else []
        return cropped + ([f"grid={self.sample_grid}"] if self.sample_grid != "kspace" else [])

    @property
    def _promised(self) -> list[str]:
        """The tier, which outputs name; the precision is in the graph's digest."""
        return [f"tier={self.tier}"] if self.tier != "exact" else []

    @property
    def _replaced(self) -> list[str]:
        """The model that was not used; a run that was asked for zero-filling is another one."""
        return [f"instead-of={self.instead_of}"] if self.instead_of else []


def series_uid(source_series_uid: str, whose: tuple[str, ...], derivation: Derivation) -> str:
    """Return the Series Instance UID for one source series in one kind of run.

    `whose` is from `kspacesr_rt.dicom.output_identity`: two patients or studies never share a
    series.
    """
    return stable_uid("series", source_series_uid, *whose, *derivation.identity)


def instance_uid(source_uid: str, content_digest: str, derivation: Derivation) -> str:
    """Return the SOP Instance UID of one output.

    Parameters
    ----------
    source_uid
        Of the source.
    content_digest
        Digests of all that the output tells, header and pixels: see
        `kspacesr_rt.dicom.output_identity`.
    derivation
        What made it.
    """
    return stable_uid("instance", source_uid, content_digest, *derivation.identity)


def device_uid(derivation: Derivation) -> str:
    """Return the UID of the model as a device: new weights, new device (IHE AIR)."""
    return stable_uid("device", derivation.model, derivation.weights_sha256)


def code_item(code: tuple[str, str, str]) -> Dataset:
    """Return a code sequence item from value, scheme and meaning (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def source_image_item(source: Dataset) -> Dataset:
    """Return the reference to the one slice that the output was made from (PS3.3 C.12.4)."""
    item = _instance_item(source)
    item.PurposeOfReferenceCodeSequence = Sequence([code_item(SOURCE_FOR_PROCESSING)])
    # Row and column numbers of the source do not apply to a magnified image (CP-564).
    item.SpatialLocationsPreserved = "NO"
    return item


def referenced_series(earlier: Iterable[Dataset], source: Dataset) -> Sequence:
    """Return Referenced Series Sequence with the source among its instances (PS3.3 C.12.2).

    Parameters
    ----------
    earlier
        The items that are there; the one for the source's series is extended in place.
    source
        The slice to refer to.
    """
    series = list(earlier)
    for item in series:
        if item.get("SeriesInstanceUID") == source.SeriesInstanceUID:
            instances: list[Dataset] = items(item, "ReferencedInstanceSequence")
            known = {instance.get("ReferencedSOPInstanceUID") for instance in instances}
            if source.SOPInstanceUID not in known:
                instances.append(_instance_item(source))
            item.ReferencedInstanceSequence = Sequence(instances)
            return Sequence(series)
    item = Dataset()
    item.SeriesInstanceUID = source.SeriesInstanceUID
    item.ReferencedInstanceSequence = Sequence([_instance_item(source)])
    return Sequence([*series, item])


def _instance_item(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    return item


def derivation_text(derivation: Derivation) -> str:
    """Return what Derivation Description says of this step, in ASCII."""
    ours = f"{_step(derivation)}, {TOOL_NAME} {derivation.tool_version}"
    if weights := derivation.weights_sha256:
        ours += f", weights sha256:{weights[:12]}; detail is predicted, not measured"
    ours += f"; {derivation.contract}" if derivation.contract else ""
    ours += "; research use only"
    return ours.encode("ascii", "replace").decode()[:ST_MAX]


def equipment_item(derivation: Derivation, moment: datetime) -> Dataset:
    """Return this tool's item of Contributing Equipment Sequence (PS3.3 C.12.1)."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([code_item(PROCESSING_EQUIPMENT)])
    item.Manufacturer = TOOL_NAME
    item.ManufacturerModelName = TOOL_NAME
    item.SoftwareVersions = _ascii(derivation.tool_version)
    item.DeviceUID = device_uid(derivation)
    item.ContributionDateTime = f"{moment:%Y%m%d%H%M%S.%f%z}"
    item.ContributionDescription = _ascii(_step(derivation), ST_MAX)
    return item


def _step(derivation: Derivation) -> str:
    model, backend = derivation.model, derivation.backend
    computed = "" if derivation.precision == "fp32" else f" in {derivation.precision}"
    engine = backend if model == backend else f"{model}{computed} on {backend}"
    if derivation.tier != "exact":
        engine += f", tier {derivation.tier}"
    if derivation.instead_of:
        engine += f" instead of {derivation.instead_of}: {', '.join(derivation.outside)}"
    domain = "" if derivation.contract else "k-space "
    step = f"{domain}super-resolution x{derivation.upscale}, {engine}"
    if derivation.cropped_to is None:
        return step
    rows, columns = derivation.cropped_to
    return f"interpolation undone by a k-space crop to {rows} x {columns}, {step}"


def _ascii(text: str, limit: int = 64) -> str:
    return text.encode("ascii", "replace").decode().replace("\\", "/")[:limit]


def now_for(dataset: Dataset) -> datetime:
    """Return the time of processing in the time zone that a data set's times are in.

    ``SOURCE_DATE_EPOCH`` (seconds since 1970) stands in for the clock, for repeatable bytes.
    """
    instant, zone = output_time(), _zone(str(dataset.get("TimezoneOffsetFromUTC") or ""))
    if zone is None and fixed_time() is None:
        return in_local_time(instant)
    return instant.astimezone(zone or UTC)


def _zone(offset: str) -> tzinfo | None:
    if len(offset) != 5 or offset[0] not in "+-" or not re.fullmatch("[0-9]{4}", offset[1:]):
        return None
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    if minutes >= 24 * 60:
        return None
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
