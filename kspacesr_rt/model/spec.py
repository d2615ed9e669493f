"""ModelSpec: the whole contract between training, export and runtime.

One JSON string under one key of the model file's metadata, with a ``schema`` number. The runtime
reads it, refuses what it does not understand, and never guesses a missing field.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from kspacesr_rt.errors import ModelSpecError
from kspacesr_rt.kspace import Matrix, SampleGrid, sample_origin
from kspacesr_rt.system.plain_text import printable, printable_values

SCHEMA = 5
"""Written by this version, which reads every earlier one."""
BOUNDED = ("added_energy_ratio", "intensity_drift", "measured_residual")
"""Figures of a slice that `ModelSpec.bounds` can limit, under their own names."""
METADATA_KEY = "kspacesr_rt.model_spec"
OP_DOMAIN = "kspacesr_rt"
"""ONNX domain of the FFT layers, and prefix of every metadata key of ours."""

Architecture = Literal["seed-kspace", "seed-image", "dc-residual", "custom", "adopted", "none"]
DataConsistency = Literal["none", "additive", "hard", "magnitude"]
Lowering = Literal["gemm", "conv", "dft", "dynamic", "none"]
Input = Literal["image", "kspace"]
Output = Literal["real", "magnitude", "kspace"]
Padding = Literal["reflect", "kspace"]
GridSource = Literal["declared", "measured", "assumed"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Tier = Literal["exact", "fast", "max"]
FFTConvention = Literal["centred", "seed"]
Normaliser = Literal["slice-max", "none", "kspace-peak"]
OutputGrid = Literal["kspace", "pixel-centre"]
MatrixTuple = tuple[int, int]
RangeTuple = tuple[float, ...]

NEW_IN: dict[int, dict[str, Any]] = {
    2: {"output_grid": "kspace"},
    3: {
        "input": "image",
        "coils": 0,
        "matrix_multiple": 1,
        "padding": "reflect",
        "fixed_matrix": (0, 0),
        "single_slice": False,
        "grid_source": "declared",
        "homogeneous": False,
        "input_range": (),
        "output_range": (),
        "description": "",
    },
    4: {"limits": {}},
    5: {"trust": {}},
}
"""Schema to the fields it added, with what a file of an earlier schema means by leaving them out:
its results lie on the grid of k-space, its network is one of ours, and it states neither limits nor
how far results may be off."""
LIMITS = ("smallest_snr", "smallest_share", "body_parts")
"""What `ModelSpec.limits` can hold; see `kspacesr_rt.model.limits`."""
TRUST_FEATURES = (
    *("intensity", "intensity_3", "added", "added_3", "added_7", "added_slice"),
    *("edges_3", "edges_7", "diagonal_7", "ring_2", "ring_3", "ring_4"),
)
"""What `ModelSpec.trust` has an exponent of each; see `kspacesr_rt.quality.trust_interval`."""
EXPONENTS_TOLERANCE = 1e-6
"""What rounding in a file may make of a sum of 1."""
LARGEST_TEXT = 4 * 2**20
"""Characters of a specification's JSON; those of the shipped models have 6,000."""
LONGEST_NAME = 256
"""Characters of a model's name: it is part of file names, log lines and DICOM texts."""
LARGEST: dict[str, int] = {
    "width": 4096,
    "blocks": 1024,
    "cascades": 1024,
    "matrix": 16384,
    "opset": 1000,
    "coils": 128,
    "matrix_multiple": 512,
}
"""Largest value of each count. The largest recipe has 64 channels and 24 blocks; what exceeds this
by far is damage, or meant to exhaust a machine's memory."""

INTERPOLATED_USE = (
    "Research use only: interpolated, with no more detail than was measured. Not a medical device."
)
"""Of the baselines, which predict nothing."""
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
    """Which generator of `kspacesr_rt.train` the weights belong to; ``custom``: a network of the
    user's own, exported from PyTorch; ``adopted``: an ONNX file that others made; ``none`` for
    baselines."""
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
    input: Input = "image"
    """What the graph takes: a magnitude image ``(n, 1, y, x)``, or centred complex k-space as
    pairs of real numbers ``(n, 2, ky, kx)``, of several coils ``(n, coils, 2, ky, kx)``."""
    coils: int = 0
    """Coils of an input of k-space; 0: none, the pair is the only axis beside the matrix."""
    matrix: MatrixTuple = (0, 0)
    """LR ``(rows, columns)`` the file is bound to as stored; it binds to any other, unless
    `fixed_matrix` says so."""
    matrix_multiple: int = 1
    """What both axes of the network's own LR matrix must be a multiple of: binding pads what is
    none, and crops the result."""
    padding: Padding = "reflect"
    """How: by reflection at the lower and right edge (``reflect``), or by zero-filling k-space, so
    that the FOV stays and samples get smaller (``kspace``)."""
    fixed_matrix: MatrixTuple = (0, 0)
    """The only LR ``(rows, columns)`` the network takes; (0, 0): it takes any."""
    single_slice: bool = False
    """Whether the graph takes one slice at a time; a batch is then run slice by slice."""
    fft_convention: FFTConvention = "centred"
    """DC at ``n // 2``; the image origin too (``centred``), or at index 0, as SR_kspace's
    ``fftshift(fft2(x))`` has it (``seed``)."""
    fft_norm: Literal["ortho"] = "ortho"
    """Unitary transforms."""
    lowering: Lowering = "none"
    """Which standard ops stand in the bodies of the FFT layers."""
    normaliser: Normaliser = "slice-max"
    """What each slice is divided by, and multiplied back with at the end: its own largest magnitude
    (``slice-max``), or the largest component of its k-space (``kspace-peak``, SR_kspace's)."""
    output_grid: OutputGrid = "kspace"
    """Where SR samples lie: on the grid of zero-filled k-space, or as image libraries resize, with
    the edges of the FOV aligned (``pixel-centre``); see `sample_grid`."""
    grid_source: GridSource = "declared"
    """How that is known: stated by whoever made the file, ``measured`` on a probe, or ``assumed``,
    since nobody said so and no probe could tell."""
    data_consistency: DataConsistency = "none"
    """``hard``: measured samples replace predicted ones; ``additive``: they are added;
    ``magnitude``: the LR samples keep their magnitude, and the network predicts their sign."""
    output: Output = "real"
    """How the complex SR image becomes a real one; ``kspace``: it does not, the graph gives SR
    k-space in the shape of its input."""
    homogeneous: bool = False
    """Declared of a network that is not ours, and checked: scaling a slice scales its result."""
    input_range: RangeTuple = ()
    """What normalisation inside the graph brings a slice's 0 to maximum to, ``(low, high)``; for
    information."""
    output_range: RangeTuple = ()
    """Declared of a network that is not ours, and checked on every slice: ``(low, high)`` of a
    result, as shares of its source's largest magnitude; empty: not declared."""
    precision: Precision = "fp32"
    """Precision of the CNN; FFT, normalisation, data consistency and magnitude are always fp32."""
    opset: int = 0
    """ONNX opset of the default domain."""
    adversarial: bool = False
    """Trained with a discriminator: its output is marked as Synthetic Data in DICOM."""
    intended_use: str = RESEARCH_USE
    """Said wherever the model is shown."""
    description: str = ""
    """What the maker of a network says of it, for its card: plain text or Markdown."""
    quality: dict[str, dict[str, float]] = field(default_factory=dict)
    """Measured quality: data set to metric to value, under convention ``slice-range1``; names that
    begin with ``tissue_`` are of convention ``tissue``, the headline of a card."""
    bounds: dict[str, float] = field(default_factory=dict)
    """Limits measured on the model card's data, beyond which a slice is flagged."""
    limits: dict[str, Any] = field(default_factory=dict)
    """Where the model was found to help, beyond which `infer` warns, skips or zero-fills a series;
    see `kspacesr_rt.model.limits`. Empty: none are claimed."""
    trust: dict[str, Any] = field(default_factory=dict)
    """By which coefficients the half-width of an interval around each sample follows from LR and
    SR, and what share of HR it held; see `kspacesr_rt.model.trust_calibration`. Empty: none is
    stated."""
    parity: dict[str, Any] = field(default_factory=dict)
    """What the export gate measured against PyTorch; see `kspacesr_rt.conversion.parity`."""
    provenance: Provenance = field(default_factory=Provenance)
    """Origin of the weights."""

    def __post_init__(self) -> None:
        """Reject values that no model can have."""
        _require_types(self)
        problems = [
            f"{name} {_shown(value)} is not one of {', '.join(allowed)}"
            for name, value, allowed in (
                ("architecture", self.architecture, get_args(Architecture)),
                ("data_consistency", self.data_consistency, get_args(DataConsistency)),
                ("lowering", self.lowering, get_args(Lowering)),
                ("output", self.output, get_args(Output)),
                ("precision", self.precision, get_args(Precision)),
                ("fft_convention", self.fft_convention, get_args(FFTConvention)),
                ("fft_norm", self.fft_norm, ("ortho",)),
                ("normaliser", self.normaliser, get_args(Normaliser)),
                ("output_grid", self.output_grid, get_args(OutputGrid)),
                ("grid_source", self.grid_source, get_args(GridSource)),
                ("input", self.input, get_args(Input)),
                ("padding", self.padding, get_args(Padding)),
            )
            if value not in allowed
        ]
        if not self.name:
            problems.append("name is empty")
        if len(self.name) > LONGEST_NAME:
            problems.append(f"name has {len(self.name)} characters, {LONGEST_NAME} are allowed")
        problems += _oversized(self)
        if not 1 <= self.upscale <= 16:
            problems.append(f"upscale {_shown(self.upscale)} is outside 1 to 16")
        if self.image_channels not in (1, 3):
            problems.append(f"image_channels {_shown(self.image_channels)} is neither 1 nor 3")
        if len(self.matrix) != 2 or min(self.matrix) < 0:
            problems.append(f"matrix {_shown(self.matrix)} is not (rows, columns)")
        if not 1 <= self.cascades <= max(self.blocks, 1):
            problems.append(
                f"{_shown(self.blocks)} blocks do not fill {_shown(self.cascades)} cascades"
            )
        if self.architecture == "seed-image" and self.data_consistency != "none":
            problems.append("an image-domain seed network has no data consistency")
        if self.architecture != "dc-residual" and self.data_consistency == "magnitude":
            problems.append("only a dc-residual generator predicts the signs of LR samples")
        seeds_own = (self.fft_convention == "seed", self.normaliser == "kspace-peak")
        if any(seeds_own) and not (all(seeds_own) and self.architecture == "seed-kspace"):
            problems.append(
                "fft_convention 'seed' and normaliser 'kspace-peak' belong together, and to "
                "architecture 'seed-kspace'"
            )
        problems += _odd_contracts(self)
        problems += _odd_figures(self)
        problems += _odd_limits(self)
        problems += _odd_trust(self)
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
        if len(text) > LARGEST_TEXT:
            raise ModelSpecError(
                f"{origin}: the model specification has {len(text)} characters, "
                f"{LARGEST_TEXT} are allowed"
            )
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise ModelSpecError(f"{origin}: the model specification is not JSON: {exc}") from exc
        schema = values.get("schema") if isinstance(values, dict) else None
        if type(schema) is not int or schema < 1:
            raise ModelSpecError(f"{origin}: the model specification has no schema number")
        if values["schema"] > SCHEMA:
            raise ModelSpecError(
                f"{origin}: specification schema {_shown(schema)} is newer than {SCHEMA}, "
                "the newest this version understands",
                hint="pip install --upgrade kspacesr-rt",
            )
        del values["schema"]
        for added, fields in NEW_IN.items():
            if schema >= added:
                continue
            if early := sorted(fields.keys() & values.keys()):
                raise ModelSpecError(
                    f"{origin}: the specification has fields its schema {schema} does not have: "
                    f"{', '.join(early)}"
                )
            values |= fields
        _require_fields(cls, values, origin)
        _require_fields(Provenance, values["provenance"], f"{origin}: provenance")
        try:
            for field_name in _TUPLES:
                if isinstance(values[field_name], list):
                    values[field_name] = tuple(values[field_name])
            values["provenance"] = Provenance(**values["provenance"])
            return cls(**values)
        except (TypeError, ValueError) as exc:
            raise ModelSpecError(f"{origin}: {exc}") from exc

    def with_printable_texts(self) -> ModelSpec:
        """Return a specification whose texts a terminal and a log can take as they are."""
        changes: dict[str, Any] = {
            item.name: printable_values(getattr(self, item.name))
            for item in dataclasses.fields(self)
            if item.name != "provenance" and item.name not in _TUPLES
        }
        origin = {
            item.name: printable_values(getattr(self.provenance, item.name))
            for item in dataclasses.fields(Provenance)
        }
        changes["description"] = printable(self.description, keep="\n")
        changes["name"] = changes["name"][:LONGEST_NAME]  # written out, it may be longer
        return dataclasses.replace(self, **changes, provenance=Provenance(**origin))

    def sr_matrix(self, matrix: Matrix) -> Matrix:
        """Return the SR matrix for a LR matrix."""
        return matrix[0] * self.upscale, matrix[1] * self.upscale

    @property
    def is_own(self) -> bool:
        """Whether the network is one of ours (or a baseline), and not ``custom`` or ``adopted``."""
        return self.architecture not in ("custom", "adopted")

    @property
    def input_axes(self) -> tuple[int, ...]:
        """Axes of the graph's input between the batch and the matrix."""
        if self.input == "image":
            return (1,)
        return (self.coils, 2) if self.coils else (2,)

    @property
    def output_axes(self) -> tuple[int, ...]:
        """Axes of the graph's output between the batch and the matrix."""
        return self.input_axes if self.output == "kspace" else (1,)

    def network_matrix(self, matrix: Matrix) -> Matrix:
        """Return what a LR matrix is padded to before the network sees it."""
        rows, columns = (-(-n // self.matrix_multiple) * self.matrix_multiple for n in matrix)
        return rows, columns

    @property
    def sample_grid(self) -> SampleGrid:
        """Where SR samples lie, for `kspacesr_rt.kspace.sample_origin`."""
        if self.output_grid == "kspace" and self.fft_convention == "seed":
            return "first-sample"
        return self.output_grid

    def sr_origin(self, matrix: Matrix) -> tuple[float, float]:
        """Return the LR ``(row, column)`` index, whole or not, at which SR sample (0, 0) lies."""
        rows, columns = (sample_origin(n, self.upscale, self.sample_grid) for n in matrix)
        return rows, columns


_PLAIN_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "MatrixTuple": (tuple,),
    "RangeTuple": (tuple,),
    "dict[str, Any]": (dict,),
    "dict[str, str]": (dict,),
    "dict[str, float]": (dict,),
    "dict[str, dict[str, float]]": (dict,),
    "Provenance": (Provenance,),
}
"""Annotation to type; the remaining ones are literals, checked by their values."""
_TUPLES = ("matrix", "fixed_matrix", "input_range", "output_range")
"""Fields that JSON holds as lists."""
_DICT_VALUES: dict[str, tuple[type, ...]] = {
    "dict[str, str]": (str,),
    "dict[str, float]": (float, int),
    "dict[str, dict[str, float]]": (dict,),
}
"""Annotation of a mapping to the types of its values."""


def _oversized(spec: ModelSpec) -> list[str]:
    found = []
    for name, largest in LARGEST.items():
        value = getattr(spec, name)
        if name == "matrix":
            value = max(value, default=0)
        elif value < 0:
            found.append(f"{name} is negative")
        if value > largest:
            found.append(f"{name} is larger than {largest}")
    return found


def _odd_contracts(spec: ModelSpec) -> list[str]:
    """Name what is declared of a network and cannot be, or only of networks that are not ours."""
    found = []
    for name in ("input_range", "output_range"):
        limits = getattr(spec, name)
        if limits and not (
            len(limits) == 2
            and all(_is_number(one) and math.isfinite(one) for one in limits)
            and limits[0] < limits[1]
        ):
            found.append(f"{name} {_shown(limits)} is not (low, high)")
    if spec.matrix_multiple < 1:
        found.append(f"matrix_multiple {_shown(spec.matrix_multiple)} is not at least 1")
    if len(spec.fixed_matrix) != 2 or min(spec.fixed_matrix) < 0:
        found.append(f"fixed_matrix {_shown(spec.fixed_matrix)} is not (rows, columns)")
    elif any(spec.fixed_matrix) and spec.fixed_matrix != spec.matrix:
        found.append("fixed_matrix is another than matrix")
    elif any(n % max(spec.matrix_multiple, 1) for n in spec.fixed_matrix):
        found.append("fixed_matrix is no multiple of matrix_multiple")
    if spec.coils and spec.input != "kspace":
        found.append("an image has no coils")
    if spec.output == "kspace" and spec.input != "kspace":
        found.append("a network that gives k-space takes k-space")
    if spec.input == "kspace" and spec.matrix_multiple > 1:
        found.append("only images are padded to a multiple")
    if spec.is_own:
        plain = NEW_IN[3] | {"output": spec.output if spec.output != "kspace" else "real"}
        if spec.architecture == "dc-residual" and spec.input == "kspace":
            plain |= {"input": "kspace", "output": "kspace"}
            if spec.data_consistency != "hard":
                found.append("a dc-residual generator of k-space keeps measured samples ('hard')")
        found += [
            f"{name} is for the architectures custom and adopted"
            for name, usual in plain.items()
            if name != "description" and getattr(spec, name) != usual
        ]
    return found


def _odd_limits(spec: ModelSpec) -> list[str]:
    """Name limits that no series can be compared with: a guess at them would be worse than none."""
    found = [
        f"limits hold {_shown(name)}, which is none" for name in spec.limits.keys() - {*LIMITS}
    ]
    for name, largest in (("smallest_snr", math.inf), ("smallest_share", 1.0)):
        value = spec.limits.get(name, 1.0)
        if not (_is_number(value) and 0.0 < value <= largest and math.isfinite(value)):
            found.append(f"limit {name} {_shown(value)} is not possible")
    parts = spec.limits.get("body_parts", [""])
    if not (isinstance(parts, list) and parts and all(isinstance(one, str) for one in parts)):
        found.append(f"limit body_parts {_shown(parts)} is no list of words")
    return found


def _odd_trust(spec: ModelSpec) -> list[str]:
    """Name what no interval follows from."""
    if not spec.trust:
        return []
    allowed = {"constant", "exponents", "coverage", "measured"}
    if spec.trust.keys() - allowed or not {"constant", "exponents", "coverage"} <= set(spec.trust):
        return [f"trust holds {_listed(sorted(map(str, spec.trust)))}"]
    found = []
    for name, largest in (("constant", math.inf), ("coverage", 1.0)):
        value = spec.trust[name]
        if not (_is_number(value) and 0.0 < value < largest):
            found.append(f"trust: {name} {_shown(value)} is not possible")
    exponents = spec.trust["exponents"]
    if not isinstance(exponents, dict) or set(exponents) != set(TRUST_FEATURES):
        found.append(f"trust has other exponents than those of {', '.join(TRUST_FEATURES)}")
    elif not all(_is_number(one) and abs(one) < math.inf for one in exponents.values()):
        found.append("trust has an exponent that is no number")
    elif abs(math.fsum(exponents.values()) - 1.0) > EXPONENTS_TOLERANCE:
        found.append("the exponents of trust do not add up to 1")
    measured = spec.trust.get("measured", {})
    shares = measured.values() if isinstance(measured, dict) else [None]
    if not all(isinstance(one, dict) and all(map(_is_number, one.values())) for one in shares):
        found.append("trust has a measured share that is no number")
    return found


def _odd_figures(spec: ModelSpec) -> list[str]:
    """Name what was stored as a measurement and is none; readers of these take it as it is."""
    found = []
    if not all(math.isfinite(value) for value in spec.bounds.values()):
        found.append("bounds hold a value that is not finite")
    figures = [value for values in spec.quality.values() for value in values.values()]
    if not all(_is_number(value) for value in figures):
        found.append("quality holds a value that is no number")
    cases = spec.parity.get("cases", [])
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        found.append("parity has cases that are no JSON objects")
    elif not all(
        value is None or _is_number(value)
        for case in cases
        for name, value in case.items()
        if name.endswith(("_db", "_error", "_ssim", "_share"))
    ):
        found.append("parity has a figure that is no number")
    notes = spec.parity.get("quantisation", {"share_of_weights": 0.0, "fp32_layers": []})
    if not (
        isinstance(notes, dict)
        and _is_number(notes.get("share_of_weights"))
        and isinstance(notes.get("fp32_layers"), list)
        and all(isinstance(layer, str) for layer in notes["fp32_layers"])
    ):
        found.append("parity has a note on quantisation that cannot be read")
    return found


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _shown(value: object) -> str:
    """Return a value as a message can quote it: of bounded length."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def _require_types(instance: ModelSpec | Provenance) -> None:
    for item in dataclasses.fields(instance):
        value = getattr(instance, item.name)
        wanted = _PLAIN_TYPES.get(str(item.type), (str,))
        # bool is an int to Python, but no count of anything.
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ModelSpecError(
                f"impossible model specification: {item.name} is {_shown(value)}, "
                f"expected {item.type}"
            )
        inner = value.values() if isinstance(value, dict) else ()
        kinds = _DICT_VALUES.get(str(item.type), (object,))
        if not all(isinstance(one, kinds) and not isinstance(one, bool) for one in inner):
            raise ModelSpecError(f"impossible model specification: {item.name} is {_shown(value)}")
        lengths = value if isinstance(value, tuple) and item.type == "MatrixTuple" else ()
        if not all(type(length) is int for length in lengths):
            raise ModelSpecError(
                f"impossible model specification: {item.name} {_shown(value)} is not made of "
                "integers"
            )


def _listed(names: list[str]) -> str:
    shown = [name[:LONGEST_NAME] for name in names[:5]]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{', '.join(shown)}{more}"


def _require_fields(cls: type, values: Any, origin: str) -> None:
    if not isinstance(values, dict):
        raise ModelSpecError(f"{origin}: expected a JSON object, found {type(values).__name__}")
    known = {item.name for item in dataclasses.fields(cls)}
    if missing := sorted(known - values.keys()):
        raise ModelSpecError(f"{origin}: the specification lacks {', '.join(missing)}")
    if unknown := sorted(values.keys() - known):
        raise ModelSpecError(
            f"{origin}: the specification has fields this version does not understand: "
            f"{_listed(unknown)}"
        )
