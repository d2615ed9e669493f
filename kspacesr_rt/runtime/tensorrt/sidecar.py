"""``MODEL.engine.json``: what an engine is, and what it is tied to.

An engine holds machine code for one GPU and one version of its library, and says neither what it
computes nor whether it is whole. The sidecar does; an engine without its own is not loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kspacesr_rt._version import __version__
from kspacesr_rt.errors import ModelFileError, ModelSpecError, system_message
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.tensorrt.adapter import Compiled, LayerCounts
from kspacesr_rt.runtime.tensorrt.fused_layers import FusedLayer
from kspacesr_rt.runtime.tensorrt.inputs import EngineInputs
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.output_time import output_time
from kspacesr_rt.system.plain_text import printable
from kspacesr_rt.system.quantities import size_text

SCHEMA = 2
"""2: layers of the engine after fusion."""
LAYERS_SHOWN = ("CONVOLUTION", "MATRIX_MULTIPLY", "QUANTIZE", "DEQUANTIZE")
"""Layer types that say what an engine computes in; the others move and scale."""
_HINT = "build the engine again: kspacesr-rt build"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInfo:
    """What stands beside an engine."""

    inputs: EngineInputs
    """What it was built from and for."""
    spec: ModelSpec
    """What it computes; `matrix` is the LR matrix it takes."""
    layers: LayerCounts
    """Layer type to type of its first output to number of layers, before fusion."""
    fused: tuple[FusedLayer, ...]
    """Layers of the engine, as launched; empty if its builder does not say."""
    size_bytes: int
    """Size of the engine."""
    plan_sha256: str
    """SHA-256 of the engine; two builds of the same inputs differ in it."""
    created: str
    """UTC time of the build, ISO 8601."""
    version: str = __version__
    """Of kspacesr-rt."""

    def __post_init__(self) -> None:
        """Reject values of the wrong type, and contradictions; raises `TypeError`."""
        texts = (self.plan_sha256, self.created, self.version)
        if not all(isinstance(text, str) for text in texts) or type(self.size_bytes) is not int:
            raise TypeError("size_bytes, plan_sha256, created or version has the wrong type")
        if not _are_layer_counts(self.layers):
            raise TypeError(f"layers is {self.layers!r}")
        if (self.spec.matrix, self.spec.precision) != (self.inputs.matrix, self.inputs.precision):
            raise TypeError("matrix or precision differs from the model specification's")

    def to_json(self) -> str:
        """Return the sidecar's text: what matters most first, the specification last."""
        origin = self.spec.provenance
        document = {
            "schema": SCHEMA,
            "key": self.inputs.key,
            "model": self.spec.name,
            "weights_sha256": origin.weights_sha256,
            "graph_sha256": origin.graph_sha256,
            "lowering": self.spec.lowering,
            **dataclasses.asdict(self.inputs),
            "layers": self.layers,
            "fused": [one.to_dict() for one in self.fused],
            "size_bytes": self.size_bytes,
            "plan_sha256": self.plan_sha256,
            "created": self.created,
            "version": self.version,
            "spec": json.loads(self.spec.to_json()),
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, origin: str) -> EngineInfo:
        """Read a sidecar, refusing what this version does not understand.

        Raises
        ------
        ModelFileError
            If it is no JSON, newer, incomplete, of wrong types, or contradicts itself.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise ModelFileError(f"{origin}: not JSON: {exc}", hint=_HINT) from exc
        schema = values.get("schema") if isinstance(values, dict) else None
        if type(schema) is not int or schema < 1:
            raise ModelFileError(f"{origin}: not the sidecar of an engine", hint=_HINT)
        if schema > SCHEMA:
            raise ModelFileError(
                f"{origin}: schema {schema} is newer than {SCHEMA}, the newest this version "
                "understands",
                hint="pip install --upgrade kspacesr-rt",
            )
        try:
            info = cls(
                inputs=EngineInputs.from_dict({name: values[name] for name in _INPUTS}),
                spec=ModelSpec.from_json(json.dumps(values["spec"]), origin="spec"),
                fused=_fused(values["fused"]),
                **{name: values[name] for name in _OWN},
            )
        except KeyError as exc:
            raise ModelFileError(f"{origin}: lacks {exc.args[0]}", hint=_HINT) from exc
        except (TypeError, ModelSpecError) as exc:
            raise ModelFileError(f"{origin}: {exc}", hint=_HINT) from exc
        rewritten = json.loads(info.to_json())
        if values["spec"].get("schema") != rewritten["spec"]["schema"]:
            values["spec"] = rewritten["spec"]  # of an earlier schema, which was read as what it is
        if wrong := sorted(
            name
            for name in values.keys() | rewritten.keys()
            # As text: a figure that is not a number differs from itself.
            if json.dumps(values.get(name)) != json.dumps(rewritten.get(name))
        ):
            raise ModelFileError(
                f"{origin}: {', '.join(wrong)} is unknown, or not what follows from the rest",
                hint=_HINT,
            )
        return info

    def as_text(self) -> str:
        """Return what a user wants to know of an engine, a line each."""
        inputs = self.inputs
        counts = [
            f"{number} {kind} {dtype}"
            for kind in LAYERS_SHOWN
            for dtype, number in self.layers.get(kind, {}).items()
        ]
        gpu = f"{inputs.gpu} ({inputs.gpu_name})" if inputs.gpu_name else f"any {inputs.gpu}"
        fewest, usual, most = inputs.batch
        level = inputs.optimisation_level
        return "\n".join(
            printable(line)
            for line in (
                f"{self.spec.name}: engine of {inputs.runtime} {inputs.runtime_version} for {gpu}, "
                f"{size_text(self.size_bytes)}",
                f"matrix       {inputs.matrix[0]} x {inputs.matrix[1]}, x{self.spec.upscale}",
                f"batch        {fewest} to {most}, tuned for {usual}",
                f"network      {inputs.precision}, FFT layers lowered as {self.spec.lowering}, "
                f"TF32 {'on' if inputs.tf32 else 'off'}",
                f"layers       {', '.join(counts)}",
                *([f"fused        {self._fused_text()}"] if self.fused else []),
                f"optimised    {'by default' if level is None else f'at level {level}'}",
                f"weights      sha256:{self.spec.provenance.weights_sha256}",
                f"onnx         sha256:{inputs.onnx_sha256}",
                f"engine       sha256:{self.plan_sha256}",
                f"built        {self.created}, kspacesr-rt {self.version}",
            )
        )

    def _fused_text(self) -> str:
        """Return how many layers are launched, in what types, and what they move."""
        by_type = Counter(one.type for one in self.fused)
        types = ", ".join(f"{number} {name}" for name, number in sorted(by_type.items()))
        moved = [one.moved_bytes for one in self.fused]
        known = [one for one in moved if one is not None]
        text = f"{len(self.fused)} layers ({types})"
        return f"{text}, {sum(known) / 1e6:.0f} MB moved" if len(known) == len(moved) else text


_INPUTS = tuple(item.name for item in dataclasses.fields(EngineInputs))
_OWN = ("layers", "size_bytes", "plan_sha256", "created", "version")


def _fused(value: Any) -> tuple[FusedLayer, ...]:
    if not isinstance(value, list):
        raise TypeError(f"fused is {value!r}, and no list of layers")
    return tuple(FusedLayer.from_dict(one) for one in value)


def _are_layer_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(counts, dict) and all(type(number) is int for number in counts.values())
        for counts in value.values()
    )


def describe(inputs: EngineInputs, spec: ModelSpec, compiled: Compiled) -> EngineInfo:
    """Return the sidecar of an engine that was just built."""
    return EngineInfo(
        inputs=inputs,
        spec=spec,
        layers=compiled.layers,
        fused=compiled.fused,
        size_bytes=len(compiled.plan),
        plan_sha256=hashlib.sha256(compiled.plan).hexdigest(),
        created=output_time().isoformat(timespec="seconds"),
    )


def sidecar_path(engine: Path) -> Path:
    """Return where the sidecar of an engine stands."""
    return engine.with_name(f"{engine.name}.json")


def write_engine(path: Path, plan: bytes, info: EngineInfo) -> None:
    """Write an engine, then its sidecar: until both are there, `load_engine` refuses them.

    Raises
    ------
    OutputError
        If one cannot be written.
    """
    replace_file(path, plan)
    replace_file(sidecar_path(path), info.to_json().encode())


def read_sidecar(path: Path) -> EngineInfo:
    """Read the sidecar of an engine, without the engine.

    Raises
    ------
    ModelFileError
        If it is missing, damaged or newer than this version.
    """
    sidecar = sidecar_path(path)
    try:
        text = sidecar.read_text(encoding="utf-8")
    except OSError as exc:
        raise ModelFileError(
            f"{sidecar.name}: cannot be read: {system_message(exc)}; an engine needs its sidecar",
            hint="copy both files, or build the engine again: kspacesr-rt build",
        ) from exc
    except UnicodeDecodeError as exc:
        raise ModelFileError(f"{sidecar.name}: not a text file", hint=_HINT) from exc
    return EngineInfo.from_json(text, origin=sidecar.name)


def load_engine(path: Path) -> tuple[EngineInfo, bytes]:
    """Read an engine and its sidecar, and check that they belong together.

    Raises
    ------
    ModelFileError
        If one of them is missing, truncated, damaged, or another build's.
    """
    info = read_sidecar(path)
    try:
        plan = path.read_bytes()
    except OSError as exc:
        raise ModelFileError(
            f"{path.name}: cannot be read: {system_message(exc)}", hint=_HINT
        ) from exc
    if len(plan) != info.size_bytes:
        raise ModelFileError(
            f"{path.name}: has {len(plan)} bytes, its sidecar says {info.size_bytes}", hint=_HINT
        )
    if hashlib.sha256(plan).hexdigest() != info.plan_sha256:
        raise ModelFileError(f"{path.name}: is not the engine its sidecar describes", hint=_HINT)
    return info, plan
