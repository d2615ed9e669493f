"""ModelSpec: the whole contract between training, export and runtime.

One JSON string under one key of the model file's metadata, with a ``schema`` number. The runtime
reads it, refuses what it does not understand, and never guesses a missing field.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from kspacesr_rt.errors import ModelSpecError
from kspacesr_rt.kspace import Matrix

SCHEMA = 1
METADATA_KEY = "kspacesr_rt.model_spec"
OP_DOMAIN = "kspacesr_rt"
"""ONNX domain of the FFT layers, and prefix of every metadata key of ours."""

Architecture = Literal["seed-kspace", "seed-image", "dc-residual", "none"]
DataConsistency = Literal["none", "additive", "hard", "magnitude"]
Lowering = Literal["gemm", "conv", "dft", "dynamic", "none"]
Output = Literal["real", "magnitude"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
MatrixTuple = tuple[int, int]

RESEARCH_USE = (
    "Research use only: super-resolved detail is predicted, not measured. Not a medical device."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a model comes from; every field is free of patients, hosts, users and paths."""

    checkpoint_sha256: str = ""
    """SHA-256 of the checkpoint file that was exported; empty in a checkpoint itself."""
    weights_sha256: str = ""
    """SHA-256 over the names, shapes and values of the stored weights, in name order."""
    graph_sha256: str = ""
    """SHA-256 over nodes, wiring and function bodies; changes with the lowering."""
    created: str = ""
    """UTC time of the export, ISO 8601."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package name to version, of what trained and exported the model."""
    training: str = ""
    """The training data and budget in a sentence."""
    licence: str = ""
    """Licence of the weights."""
    attribution: str = ""
    """Whom to credit for the data."""

    def __post_init__(self) -> None:
        """Reject values of the wrong type."""
        _require_types(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """What a model computes, on what, and how far it was proved."""

    name: str
    """Short name, such as ``x2-fast``."""
    architecture: Architecture
    """Which generator of `kspacesr_rt.train` the weights belong to; ``none`` for baselines."""
    upscale: int
    """SR samples per LR sample and axis."""
    width: int = 0
    """Channels between the layers of the CNN."""
    blocks: int = 0
    """Residual blocks, over all cascades."""
    cascades: int = 1
    """How often data consistency is applied; the blocks are shared out over the cascades."""
    bias: bool = False
    """Whether the convolutions have an additive bias."""
    image_channels: int = 1
    """Channels of an image-domain seed network, 1 or 3: a grey image is repeated, then averaged."""
    matrix: MatrixTuple = (0, 0)
    """LR ``(rows, columns)`` the file is bound to as stored; it binds to any other."""
    fft_convention: Literal["centred"] = "centred"
    """DC and image origin at ``n // 2``."""
    fft_norm: Literal["ortho"] = "ortho"
    """Unitary transforms."""
    lowering: Lowering = "none"
    """Which standard ops stand in the bodies of the FFT layers."""
    normaliser: Literal["slice-max", "none"] = "slice-max"
    """Each slice is divided by its own largest magnitude, and multiplied back at the end."""
    data_consistency: DataConsistency = "none"
    """``hard``: measured samples replace predicted ones; ``additive``: they are added;
    ``magnitude``: the LR samples keep their magnitude, and the network predicts their sign."""
    output: Output = "real"
    """How the complex SR image becomes a real one."""
    precision: Precision = "fp32"
    """Precision of the CNN; FFT, normalisation, data consistency and magnitude are always fp32."""
    opset: int = 0
    """ONNX opset of the default domain."""
    adversarial: bool = False
    """Trained with a discriminator: its output is marked as Synthetic Data in DICOM."""
    intended_use: str = RESEARCH_USE
    """Said wherever the model is shown."""
    quality: dict[str, dict[str, float]] = field(default_factory=dict)
    """Measured quality: data set to metric to value, under convention ``slice-range1``."""
    bounds: dict[str, float] = field(default_factory=dict)
    """Limits measured on the model card's data, beyond which a slice is flagged."""
    parity: dict[str, Any] = field(default_factory=dict)
    """What the export gate measured against PyTorch; see `kspacesr_rt.export.parity`."""
    provenance: Provenance = field(default_factory=Provenance)
    """Origin of the weights."""

    def __post_init__(self) -> None:
        """Reject values that no model can have."""
        _require_types(self)
        problems = [
            f"{name} {value!r} is not one of {', '.join(allowed)}"
            for name, value, allowed in (
                ("architecture", self.architecture, get_args(Architecture)),
                ("data_consistency", self.data_consistency, get_args(DataConsistency)),
                ("lowering", self.lowering, get_args(Lowering)),
                ("output", self.output, get_args(Output)),
                ("precision", self.precision, get_args(Precision)),
                ("fft_convention", self.fft_convention, ("centred",)),
                ("fft_norm", self.fft_norm, ("ortho",)),
                ("normaliser", self.normaliser, ("slice-max", "none")),
            )
            if value not in allowed
        ]
        if not self.name:
            problems.append("name is empty")
        if not 1 <= self.upscale <= 16:
            problems.append(f"upscale {self.upscale} is outside 1 to 16")
        if self.image_channels not in (1, 3):
            problems.append(f"image_channels {self.image_channels} is neither 1 nor 3")
        if len(self.matrix) != 2 or min(self.matrix) < 0:
            problems.append(f"matrix {self.matrix} is not (rows, columns)")
        if not 1 <= self.cascades <= max(self.blocks, 1):
            problems.append(f"{self.blocks} blocks do not fill {self.cascades} cascades")
        if self.architecture == "seed-image" and self.data_consistency != "none":
            problems.append("an image-domain seed network has no data consistency")
        if self.architecture != "dc-residual" and self.data_consistency == "magnitude":
            problems.append("only a dc-residual generator predicts the signs of LR samples")
        if problems:
            raise ModelSpecError(f"impossible model specification: {'; '.join(problems)}")

    def to_json(self) -> str:
        """Return the specification as one line of JSON with its schema number."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, origin: str = "model") -> ModelSpec:
        """Read a specification, refusing what this version does not understand.

        Parameters
        ----------
        text
            What `to_json` wrote.
        origin
            Named in errors: the file's name, say.

        Raises
        ------
        ModelSpecError
            If the text is no JSON object, its schema is newer, or fields are missing or unknown.
        """
        try:
            values = json.loads(text)
        except ValueError as exc:
            raise ModelSpecError(f"{origin}: the model specification is not JSON: {exc}") from exc
        schema = values.get("schema") if isinstance(values, dict) else None
        if type(schema) is not int or schema < 1:
            raise ModelSpecError(f"{origin}: the model specification has no schema number")
        if values["schema"] > SCHEMA:
            raise ModelSpecError(
                f"{origin}: specification schema {values['schema']} is newer than {SCHEMA}, "
                "the newest this version understands",
                hint="pip install --upgrade kspacesr-rt",
            )
        del values["schema"]
        _require_fields(cls, values, origin)
        _require_fields(Provenance, values["provenance"], f"{origin}: provenance")
        try:
            if isinstance(values["matrix"], list):
                values["matrix"] = tuple(values["matrix"])
            values["provenance"] = Provenance(**values["provenance"])
            return cls(**values)
        except (TypeError, ValueError) as exc:
            raise ModelSpecError(f"{origin}: {exc}") from exc

    def sr_matrix(self, matrix: Matrix) -> Matrix:
        """Return the SR matrix for a LR matrix."""
        return matrix[0] * self.upscale, matrix[1] * self.upscale


_PLAIN_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "MatrixTuple": (tuple,),
    "dict[str, Any]": (dict,),
    "dict[str, str]": (dict,),
    "dict[str, float]": (dict,),
    "dict[str, dict[str, float]]": (dict,),
    "Provenance": (Provenance,),
}
"""Annotation to type; the remaining ones are literals, checked by their values."""
_DICT_VALUES: dict[str, tuple[type, ...]] = {
    "dict[str, float]": (float, int),
    "dict[str, dict[str, float]]": (dict,),
}
"""Annotation of a mapping to the types of its values."""


def _require_types(instance: ModelSpec | Provenance) -> None:
    for item in dataclasses.fields(instance):
        value = getattr(instance, item.name)
        wanted = _PLAIN_TYPES.get(str(item.type), (str,))
        # bool is an int to Python, but no count of anything.
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ModelSpecError(
                f"impossible model specification: {item.name} is {value!r}, expected {item.type}"
            )
        inner = value.values() if isinstance(value, dict) else ()
        kinds = _DICT_VALUES.get(str(item.type), (object,))
        if not all(isinstance(one, kinds) and not isinstance(one, bool) for one in inner):
            raise ModelSpecError(f"impossible model specification: {item.name} is {value!r}")
        if isinstance(value, tuple) and not all(type(length) is int for length in value):
            raise ModelSpecError(
                f"impossible model specification: {item.name} {value} is not made of integers"
            )


def _require_fields(cls: type, values: Any, origin: str) -> None:
    if not isinstance(values, dict):
        raise ModelSpecError(f"{origin}: expected a JSON object, found {type(values).__name__}")
    known = {item.name for item in dataclasses.fields(cls)}
    if missing := sorted(known - values.keys()):
        raise ModelSpecError(f"{origin}: the specification lacks {', '.join(missing)}")
    if unknown := sorted(values.keys() - known):
        raise ModelSpecError(
            f"{origin}: the specification has fields this version does not understand: "
            f"{', '.join(unknown)}"
        )
