"""The files that the rows of a benchmark run: one model, in every lowering and precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kspacesr_rt.bench.run.plans import LOWERINGS, PEERS, RowPlan
from kspacesr_rt.errors import KspaceSRError
from kspacesr_rt.graph.flops import Flops, count_flops
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.contracts import require_images
from kspacesr_rt.model.file import ModelFile, load_model, resolve_model

SEED_SHAPE = "seed-x2"
"""Name that stands for the seed's network, 64 channels, 160 -> 320, with random weights: what
published figures for it are compared with."""


OF_THEIR_RUNTIME = ("bf16", "int8", "fp8")
"""Precisions whose files are made for one runtime."""


class VariantFailed(Exception):  # noqa: N818 - an outcome of a row, like SliceFailed
    """A variant could not be made; the message says why."""


@dataclass(slots=True)
class Variants:
    """Makes each file once, below one folder."""

    folder: Path
    """Where files are written."""
    _made: dict[tuple[str, str, str, str], Path | str] = field(default_factory=dict)
    _counted: dict[tuple[str, Matrix], Flops] = field(default_factory=dict)

    def path_for(self, row: RowPlan) -> Path:
        """Return the file that a row runs: a checkpoint for peers, else a model.

        Raises
        ------
        VariantFailed
            If the export or its gate refused; a reason is found out once and then repeated.
        """
        # bf16 has no kernels in ONNX Runtime on a CPU, so its gate runs where the row will; 8-bit
        # files differ by what their runtime fuses.
        runtime = row.contestant if row.precision in OF_THEIR_RUNTIME else "ort-cpu"
        key = (row.model, row.lowering or "gemm", row.precision, runtime)
        if row.contestant in PEERS:
            key = (row.model, "", "", "")
        if key not in self._made:
            try:
                self._made[key] = self._model(*key) if key[1] else self._checkpoint(row.model)
            except KspaceSRError as exc:
                self._made[key] = str(exc).split("\n", 1)[0]
        found = self._made[key]
        if isinstance(found, str):
            raise VariantFailed(found)
        return found

    def original(self, name: str) -> ModelFile:
        """Load the model a name stands for, in fp32."""
        if name == SEED_SHAPE:
            path = self.folder / f"{SEED_SHAPE}-gemm-fp32.onnx"
            if not path.exists():
                self._export(name, path, "gemm", "fp32", "ort-cpu")
            return load_model(path)
        model = load_model(resolve_model(name, upscale=None))
        require_images(model.spec)
        return model

    def flops(self, name: str, matrix: Matrix) -> Flops:
        """Count the operations of one slice of the model a name stands for, once."""
        key = (name, matrix)
        if key not in self._counted:
            self._counted[key] = count_flops(self.original(name), matrix)
        return self._counted[key]

    def _model(self, name: str, lowering: str, precision: str, runtime: str) -> Path:
        model = self.original(name)
        if (lowering, precision) == (model.spec.lowering, model.spec.precision):
            stored = self.folder / f"{SEED_SHAPE}-gemm-fp32.onnx"
            return stored if name == SEED_SHAPE else resolve_model(name, upscale=None)
        path = self.folder / f"{model.spec.name}-{lowering}-{precision}-{runtime}.onnx"
        if model.spec.is_own:
            self._export(name, path, lowering, precision, runtime)
            return path
        return self._converted(name, path, lowering, precision, runtime)

    def _converted(
        self, name: str, path: Path, lowering: str, precision: str, runtime: str
    ) -> Path:
        """Bring a network that is not ours to a row's precision; it is not lowered otherwise.

        One without FFT layers has its rows where those of others have their first lowering.
        """
        from kspacesr_rt.conversion.convert import convert_model

        model = self.original(name)
        as_it_is = LOWERINGS[0] if model.spec.lowering == "none" else model.spec.lowering
        if lowering != as_it_is:
            raise VariantFailed(
                f"{model.spec.name} is a network of others: it is measured as it is lowered"
            )
        stored = resolve_model(name, upscale=None)
        if precision == model.spec.precision:
            return stored
        convert_model(
            stored,
            path,
            precision=precision,  # type: ignore[arg-type]  # a row's, checked where rows are planned
            runtime=runtime,
            backend=runtime,
        )
        return path

    def _export(self, name: str, path: Path, lowering: str, precision: str, runtime: str) -> None:
        from kspacesr_rt.export.exporter import export_model

        export_model(
            self._checkpoint(name),
            path,
            lowering=lowering,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            runtime=runtime,
            backend=runtime,
        )

    def _checkpoint(self, name: str) -> Path:
        from kspacesr_rt.export.checkpoint_from_model import (
            checkpoint_from_model,
            untrained_checkpoint,
        )
        from kspacesr_rt.model.spec import ModelSpec

        if name == SEED_SHAPE:
            path = self.folder / f"{SEED_SHAPE}.pt"
            if not path.exists():
                spec = ModelSpec(
                    name=SEED_SHAPE,
                    architecture="seed-kspace",
                    upscale=2,
                    matrix=(160, 160),
                    width=64,
                    bias=True,
                )
                untrained_checkpoint(spec, path)
            return path
        model = self.original(name)
        path = self.folder / f"{model.spec.name}.pt"
        if not path.exists():
            checkpoint_from_model(model, path)
        return path
