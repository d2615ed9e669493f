"""Model files: what makes an ``.onnx`` file ours, and reading one without trusting it.

A file is ours if its metadata hold a `ModelSpec` that this version understands, if its nodes come
from ONNX itself or from the ``kspacesr_rt`` domain, if it keeps nothing outside itself, and if its
weights still have the digest that export wrote down.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import math
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from kspacesr_rt.errors import InputError, ModelFileError, system_message
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.model.content_checks import LARGEST_FILE, require_known_content
from kspacesr_rt.model.contracts import contracts_of, taken_text
from kspacesr_rt.model.engine_files import require_no_engine
from kspacesr_rt.model.limits import ModelLimits
from kspacesr_rt.model.spec import BOUNDED, METADATA_KEY, OP_DOMAIN, ModelSpec
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.system.plain_text import printable, shortened
from kspacesr_rt.system.quantities import agreement_text, size_text

KNOWN_ANSWER_KEY = "kspacesr_rt.known_answer"
INPUT_NAME, OUTPUT_NAME = "lr", "sr"
LARGEST_QUESTION, LARGEST_ANSWER = 2**18, 2**22
"""Samples of the LR and the SR image of a stored self-test. Those that export writes have 1320 LR
samples; a network of a fixed matrix is asked at that one, up to 512 x 512."""
DAMAGED_HINT = "the file was damaged or edited: export it again"
MALFORMED = (
    *(ValueError, TypeError, LookupError, AttributeError, RuntimeError),
    onnx.checker.ValidationError,
)
"""What protobuf and NumPy raise on a file whose bytes parse but make no sense. A flipped bit can
hit any field, so the whole reading of an untrusted file is caught, and only that."""

_INT, _TENSOR = onnx.AttributeProto.INT, onnx.AttributeProto.TENSOR
_GRIDS = {"input_upscale": _INT, "output_upscale": _INT}
_TRANSFORM = {**_GRIDS, "input_channels": _INT, "channels": _INT}
_MOST = {"input_channels": 2, "channels": 2}
"""Of a real image and of complex k-space; grids are at most as fine as the SR matrix."""
LAYER_ATTRIBUTES = {
    "FFT2c": _TRANSFORM,
    "IFFT2c": _TRANSFORM,
    "CornerFFT2c": _TRANSFORM,
    "CornerIFFT2c": _TRANSFORM,
    "RealFFT2c": _GRIDS,
    "RealIFFT2c": _GRIDS,
    "CentreCrop": _GRIDS,
    "CentreFill": _GRIDS,
    "MeanSpectrum": {**_GRIDS, "divide": _INT, "spectrum": _TENSOR},
    "PeakSpectrum": {**_GRIDS, "divide": _INT, "spectrum": _TENSOR},
    "WholeNyquist": _GRIDS,
    "RealWholeNyquist": _GRIDS,
}
"""The operators of our domain: attribute to type, all of them required."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownAnswer:
    """A stored input with the output that PyTorch, or the network's own runtime, gave for it."""

    lr: FloatArray
    """Shape ``(y, x)``, float32; of k-space ``(2, ky, kx)`` or ``(coils, 2, ky, kx)``."""
    sr: FloatArray
    """Shape ``(s * y, s * x)``, float32; or the same of k-space."""

    def to_json(self) -> str:
        """Return both arrays as compressed base64 in JSON."""
        return json.dumps({"lr": _pack(self.lr), "sr": _pack(self.sr)})

    @classmethod
    def from_json(cls, text: str) -> KnownAnswer:
        """Read what `to_json` wrote; raises `ValueError` if it is damaged, or larger than any."""
        stored = json.loads(text)
        return cls(
            lr=_unpack(stored["lr"], LARGEST_QUESTION), sr=_unpack(stored["sr"], LARGEST_ANSWER)
        )


def _pack(array: FloatArray) -> dict[str, object]:
    packed = zlib.compress(array.astype("<f4").tobytes(), 9)
    return {"shape": list(array.shape), "zlib_f4": base64.b64encode(packed).decode("ascii")}


def _unpack(stored: dict[str, object], most: int) -> FloatArray:
    shape = _lengths(stored["shape"], most)
    size = 4 * math.prod(shape)
    # A few bytes may claim to unpack to gigabytes: no more is unpacked than the shape has.
    unpacking = zlib.decompressobj()
    raw = unpacking.decompress(base64.b64decode(str(stored["zlib_f4"])), size + 1)
    if len(raw) != size or not unpacking.eof:
        raise ValueError(f"expected {size} bytes")
    return np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)


def _lengths(value: object, most: int) -> tuple[int, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= 4:
        raise TypeError("expected two to four lengths")
    if not all(type(length) is int and length > 0 for length in value):
        raise TypeError("expected two to four lengths")
    if math.prod(value) > most:
        raise ValueError(f"more than {most} samples")
    return tuple(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """A model that was read and found to be ours."""

    name: str
    """File name, for messages."""
    proto: onnx.ModelProto
    """The graph, as stored."""
    spec: ModelSpec
    """What it computes."""
    size_bytes: int
    """Size of the file."""

    def as_text(self, *, verbose: bool = False) -> str:
        """Return what a user wants to know of a model, a line each.

        Parameters
        ----------
        verbose
            Also the figures that its bounds come from, as a table.
        """
        spec, origin = self.spec, self.spec.provenance
        worst, against = parity_figures(spec), spec.parity.get("reference", "PyTorch")
        lines = [
            f"{spec.name}: {spec.architecture}, x{spec.upscale}, {size_text(self.size_bytes)}",
            *(_own_text(spec) if spec.is_own else _foreign_text(spec)),
            f"parity       at least {agreement_text(min(worst))} with {against} over "
            f"{len(worst)} cases"
            if worst
            else "parity       not recorded",
            *_quantisation_text(spec),
            *_bounds_text(spec, verbose=verbose),
            f"limits       {ModelLimits.of(spec).as_text() or 'none are stated'}",
            f"trust        {TrustCalibration.of(spec).as_text() if spec.trust else 'no intervals'}",
            f"training     {origin.training or 'not recorded'}",
            f"licence      {origin.licence or 'not recorded'}",
            f"attribution  {origin.attribution or 'not recorded'}",
            "SHA-256 of",
            f"  weights    {origin.weights_sha256}",
            *([f"  checkpoint {origin.checkpoint_sha256}"] * bool(origin.checkpoint_sha256)),
            f"exported     {origin.created}, "
            + ", ".join(f"{name} {version}" for name, version in sorted(origin.versions.items())),
        ]
        for data, values in sorted(spec.quality.items()):
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
            lines.append(f"quality      {data}: {numbers}")
        said = [f"  {line}" for line in spec.description.splitlines()]
        lines += ["text", *said] if said else []
        return "\n".join(printable(line) for line in (*lines, spec.intended_use))

    def known_answer(self) -> KnownAnswer:
        """Return the stored self-test.

        Raises
        ------
        ModelFileError
            If the file carries none, or it is damaged.
        """
        text = _metadata(self.proto).get(KNOWN_ANSWER_KEY)
        if text is None:
            raise ModelFileError(f"{self.name} carries no known answer to verify against")
        try:
            answer = KnownAnswer.from_json(text)
        except (ValueError, KeyError, TypeError, zlib.error, RecursionError) as exc:
            raise ModelFileError(f"{self.name}: the stored known answer is damaged") from exc
        spec, matrix = self.spec, (answer.lr.shape[-2], answer.lr.shape[-1])
        shapes = (answer.lr.ndim, answer.sr.shape)
        if shapes_of_slice(spec, matrix) != (answer.lr.shape, answer.sr.shape):
            raise ModelFileError(f"{self.name}: the stored known answer has shapes {shapes}")
        if not (np.isfinite(answer.sr).all() and answer.sr.any()):
            raise ModelFileError(f"{self.name}: the stored known answer holds nothing to compare")
        return answer


def shapes_of_slice(spec: ModelSpec, matrix: Matrix) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of one slice and its result: images have no axis beside the matrix."""
    sr = spec.sr_matrix(matrix)
    return (
        matrix if spec.input == "image" else (*spec.input_axes, *matrix),
        (*spec.output_axes, *sr) if spec.output == "kspace" else sr,
    )


def _own_text(spec: ModelSpec) -> list[str]:
    return [
        f"network      {spec.width} channels, {spec.blocks} blocks in {spec.cascades} "
        f"cascade{'s' * (spec.cascades > 1)}, {spec.precision}",
        f"stored for   {spec.matrix[0]} x {spec.matrix[1]} (binds to any matrix)",
        f"FFT layers   {spec.fft_convention}, {spec.fft_norm}, lowered as {spec.lowering}, "
        f"opset {spec.opset}",
        f"samples      on the grid '{spec.output_grid}'",
        f"measured     k-space samples: data consistency '{spec.data_consistency}'",
    ]


def _foreign_text(spec: ModelSpec) -> list[str]:
    """Say what is known of a network that is not ours, and what is not."""
    transforms = "none" if spec.lowering == "none" else f"lowered as {spec.lowering}"
    return [
        f"network      takes {taken_text(spec)}; {spec.precision}, opset {spec.opset}",
        f"FFT layers   {transforms}",
        *(f"contract     {name}: {text}" for name, text in contracts_of(spec).items()),
    ]


def parity_figures(spec: ModelSpec) -> list[float]:
    """Return the PSNR in dB between PyTorch and the model, of each case of its export's gate."""
    found = [case.get("psnr_between_db") for case in spec.parity.get("cases", [])]
    return [float(value) for value in found if value is not None]


def _bounds_text(spec: ModelSpec, *, verbose: bool) -> list[str]:
    """Say beyond what a slice is flagged; if `verbose` as a table, with what was measured."""
    limits = {name: spec.bounds[name] for name in BOUNDED if name in spec.bounds}
    measured = {name: value for name, value in sorted(spec.bounds.items()) if name not in limits}
    if not verbose:
        listed = ", ".join(f"{name} {value:.4g}" for name, value in limits.items())
        more = f" (-v: {len(measured)} figures more)" if measured else ""
        return [f"bounds       {listed or 'none: no slice is flagged'}{more}"]
    width = max(map(len, spec.bounds), default=0)

    def table(values: dict[str, float]) -> list[str]:
        return [f"  {name:<{width}}  {value:.4g}" for name, value in values.items()]

    lines = ["bounds       a slice is flagged beyond", *table(limits)] if limits else []
    lines += ["figures      that the bounds come from", *table(measured)] if measured else []
    return lines or ["bounds       none: no slice is flagged"]


def _quantisation_text(spec: ModelSpec) -> list[str]:
    notes = spec.parity.get("quantisation")
    if notes is None:
        return []
    return [
        f"quantised    {notes['share_of_weights']:.0%} of the weights in 8 bits; layers in fp32: "
        + (", ".join(notes["fp32_layers"]) or "none")
    ]


def _metadata(proto: onnx.ModelProto) -> dict[str, str]:
    return {item.key: item.value for item in proto.metadata_props}


def bound_constants(proto: onnx.ModelProto) -> set[str]:
    """Return the names of initialisers that follow from the matrix.

    They are all inputs but the first of every node of our domain.
    """
    return {
        name for node in proto.graph.node if node.domain == OP_DOMAIN for name in node.input[1:]
    }


def weights_digest(proto: onnx.ModelProto) -> str:
    """Return the SHA-256 over all weights: names, shapes, values, slopes and stored spectra.

    Constants that follow from the matrix are left out, so a model keeps its digest when it is
    bound to another matrix or lowered differently.
    """
    derived = bound_constants(proto)
    arrays = {
        item.name: numpy_helper.to_array(item)
        for item in proto.graph.initializer
        if item.name not in derived
    }
    for node in proto.graph.node:
        for attribute in node.attribute:
            name = f"{node.name}.{attribute.name}"
            if attribute.type == onnx.AttributeProto.TENSOR:
                arrays[name] = numpy_helper.to_array(attribute.t)
            elif attribute.type == onnx.AttributeProto.FLOAT:
                arrays[name] = np.asarray(attribute.f, dtype=np.float32)
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        digest.update(f"{name}{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def graph_digest(proto: onnx.ModelProto) -> str:
    """Return the SHA-256 over what is computed: nodes, wiring, attributes, function bodies.

    Values of tensors belong to `weights_digest`; names of constants that follow from the matrix
    are left out, so binding keeps the digest. Another lowering has other bodies and another digest.
    """
    derived = bound_constants(proto)
    lines = [_node_text(node, derived) for node in proto.graph.node]
    for body in sorted(proto.functions, key=lambda body: str(body.name)):
        lines.append([body.domain, body.name, list(body.input), list(body.output)])
        lines += [_node_text(node, set()) for node in body.node]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _node_text(node: onnx.NodeProto, derived: set[str]) -> list[object]:
    attributes = sorted(
        [
            item.name,
            item.type,
            item.ref_attr_name,
            item.i,
            item.f,
            item.s.hex(),
            list(item.ints),
            list(item.floats),
        ]
        for item in node.attribute
    )
    inputs = [name for name in node.input if name not in derived]
    return [node.domain, node.op_type, node.name, inputs, list(node.output), attributes]


def shipped_models() -> dict[str, Path]:
    """Return the models in the wheel, name to path."""
    folder = Path(str(resources.files("kspacesr_rt.model.shipped")))
    return {path.stem: path for path in sorted(folder.glob("*.onnx"))}


def shipped_kspace_models() -> dict[str, Path]:
    """Return the models in the wheel that take k-space, name to path: no series of images does."""
    folder = Path(str(resources.files("kspacesr_rt.model.shipped"))) / "kspace"
    return {path.stem: path for path in sorted(folder.glob("*.onnx"))}


def every_shipped_model() -> dict[str, Path]:
    """Return every model in the wheel, name to path: those of images, then those of k-space."""
    return shipped_models() | shipped_kspace_models()


def resolve_model(name_or_path: str | None, *, upscale: int | None) -> Path:
    """Find the file a user means by a path, a shipped name, or nothing at all.

    Parameters
    ----------
    name_or_path
        A path, a shipped model's name, or None for the shipped default of `upscale`.
    upscale
        Wanted SR / LR; None means 2 for the default.

    Raises
    ------
    InputError
        If there is no such file or shipped model.
    """
    shipped = shipped_models()
    if name_or_path is None:
        name_or_path = f"x{upscale or 2}-fast"
        if name_or_path not in shipped:
            raise InputError(
                f"no model for upscale {upscale} is shipped",
                hint=f"shipped: {', '.join(shipped)}; or name a model file",
            )
    shipped = every_shipped_model()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        listed = f"shipped models: {', '.join(shipped)}"
        if path.is_dir():
            raise InputError(
                f"'{name_or_path}' is a folder, not a model file",
                hint=f"folders of DICOM are for: kspacesr-rt infer FOLDER OUT; {listed}",
            )
        near = difflib.get_close_matches(name_or_path, shipped, n=2)
        meant = f"is it {' or '.join(near)}? " if near else ""
        raise InputError(f"no model file '{name_or_path}'", hint=f"{meant}{listed}")
    return path


def load_model(path: Path) -> ModelFile:
    """Read a model file and check that it is ours and whole.

    Raises
    ------
    ModelFileError
        If it is no ONNX file, truncated, keeps data elsewhere, uses foreign operators, or its
        weights do not have the digest that export stored.
    ModelSpecError
        If its specification is newer than this version or incomplete.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE or not (path.is_file() or path.is_dir()):
            raise ModelFileError(
                f"{path.name}: no regular file of at most {LARGEST_FILE} bytes, as ONNX files are"
            )
        content = path.read_bytes()
    except OSError as exc:
        raise ModelFileError(f"{path.name}: cannot be read: {system_message(exc)}") from exc
    return parse_model(content, name=path.name)


def parse_model(content: bytes, *, name: str) -> ModelFile:
    """Read a model from bytes; see `load_model`."""
    require_no_engine(content, name)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as exc:
        raise ModelFileError(
            f"{name}: not an ONNX file, or a truncated one",
            hint="copy the file again, or export it: kspacesr-rt export CHECKPOINT -o MODEL.onnx",
        ) from exc
    proto.DiscardUnknownFields()  # of a later ONNX; a runtime might know them
    try:
        spec = _read_checked(proto, name)
    except InputError:
        raise
    except MALFORMED as exc:
        raise ModelFileError(
            f"{name}: a damaged ONNX file ({type(exc).__name__})", hint=DAMAGED_HINT
        ) from exc
    return ModelFile(name=name, proto=proto, spec=spec, size_bytes=len(content))


def _read_checked(proto: onnx.ModelProto, name: str) -> ModelSpec:
    text = _metadata(proto).get(METADATA_KEY)
    if text is None and any(node.op_type == "EPContext" for node in proto.graph.node):
        raise ModelFileError(
            f"{name} is what ONNX Runtime keeps of a TensorRT engine, and is no model itself",
            hint="name the model that it was built of, with --backend ort-tensorrt, which finds it",
        )
    if text is None:
        raise ModelFileError(
            f"{name} carries no '{METADATA_KEY}' metadata, so it is not one of our models "
            "(or a truncated one)",
            hint="export it with: kspacesr-rt export CHECKPOINT -o MODEL.onnx",
        )
    spec = ModelSpec.from_json(text, origin=name).with_printable_texts()
    require_known_content(proto, name)
    _require_entrances(proto, name)
    _require_layers(proto, spec, name)
    stored = spec.provenance
    if (weights_digest(proto), graph_digest(proto)) != (stored.weights_sha256, stored.graph_sha256):
        raise ModelFileError(
            f"{name}: its weights or its graph differ from the digest stored at export",
            hint=DAMAGED_HINT,
        )
    return spec


def _require_layers(proto: onnx.ModelProto, spec: ModelSpec, name: str) -> None:
    """Check what binding relies on: attributes of our layers, and four axes in and out.

    Binding makes constants as large as the attributes say.
    """
    for node in proto.graph.node:
        wanted = LAYER_ATTRIBUTES.get(node.op_type) if node.domain == OP_DOMAIN else {}
        if wanted is None or (not node.input and node.domain == OP_DOMAIN):
            raise ModelFileError(
                f"{name}: operator '{OP_DOMAIN}::{shortened(node.op_type, 80)}' is unknown to "
                "this version, "
                "or has no input"
            )
        found = {item.name: item.type for item in node.attribute}
        if node.domain == OP_DOMAIN and found != wanted:
            raise ModelFileError(
                f"{name}: layer '{shortened(node.name, 80)}' has not the attributes it needs"
            )
        for item in node.attribute:
            most = _MOST.get(item.name, spec.upscale if item.name in _GRIDS else None)
            if node.domain == OP_DOMAIN and most is not None and not 1 <= item.i <= most:
                raise ModelFileError(
                    f"{name}: layer '{shortened(node.name, 80)}' has the attribute "
                    f"{item.name} = {item.i}; 1 to {most} are possible"
                )
    for value, axes in (
        (proto.graph.input[0], spec.input_axes),
        (proto.graph.output[0], spec.output_axes),
    ):
        if len(value.type.tensor_type.shape.dim) != len(axes) + 3:
            listed = ", ".join(map(str, axes))
            raise ModelFileError(
                f"{name}: '{shortened(value.name, 80)}' has not the axes (n, {listed}, y, x)"
            )


def _require_entrances(proto: onnx.ModelProto, name: str) -> None:
    inputs = [item.name for item in proto.graph.input]
    outputs = [item.name for item in proto.graph.output]
    if inputs != [INPUT_NAME] or outputs != [OUTPUT_NAME]:
        raise ModelFileError(
            f"{name}: expected one input '{INPUT_NAME}' and one output '{OUTPUT_NAME}', "
            f"found {shortened(inputs)} and {shortened(outputs)}"
        )
