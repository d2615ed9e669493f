"""Any image-to-image network to a model file: probe, lower, prove at several matrices, then write.

The network, and torch's exporters, run in processes of their own, which may die. What they lower is
run here, at matrices and batches it was not traced with, against what PyTorch computed: an exporter
is no oracle. A network that is right at one matrix only is written so; a wrong one never.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from kspacesr_rt.conversion.contract_gate import require_checkable, require_contracts
from kspacesr_rt.conversion.grid_check import find_placement, require_placed
from kspacesr_rt.conversion.open_backends import OpenBackends
from kspacesr_rt.conversion.parity import TIERS, ParityReport, require_parity
from kspacesr_rt.conversion.proof import finished, require_free, stamped
from kspacesr_rt.errors import (
    ExporterError,
    ExportError,
    KspaceSRError,
    ModelFileError,
    ParityError,
    ResultError,
)
from kspacesr_rt.export.centred_norms import with_centred_norms
from kspacesr_rt.export.double_precision import LEAST_ROUNDED_DB, in_double
from kspacesr_rt.export.exported import (
    MULTIPLES,
    ONE_MATRIX,
    OVERFLOWS,
    WRITTEN_FOR,
    Exported,
)
from kspacesr_rt.export.isolated_process import TIME_LIMIT_S, TimeLimitError, in_own_process
from kspacesr_rt.export.lowering import lower
from kspacesr_rt.export.module_gate import (
    SCANNER_UNITS,
    GateInput,
    agreement_at,
    double_check,
    gate_inputs,
    report_of,
)
from kspacesr_rt.export.module_lowering import lower_module
from kspacesr_rt.export.network_probe import LONG, Layout, Probed, probed, require_usable, unwrapped
from kspacesr_rt.export.scripted_networks import without_scripts
from kspacesr_rt.graph.precision import opset_of
from kspacesr_rt.graph.relowering import has_transforms
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import KnownAnswer, ModelFile, parse_model
from kspacesr_rt.model.spec import (
    DataConsistency,
    Input,
    Lowering,
    ModelSpec,
    OutputGrid,
    Padding,
    Provenance,
)
from kspacesr_rt.quality.array_contracts import with_contracts
from kspacesr_rt.runtime.backends import BACKENDS, open_backend
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.path_arguments import require_path
from kspacesr_rt.system.progress_messages import report_step
from kspacesr_rt.train.generators import ComplexDCResidualGenerator

HR_NOMINAL = 256
"""SR samples per axis of the matrix a file is stored for."""
EVEN_THROUGHOUT = 16
"""Multiple of the matrix at which four poolings leave no rest: U-Nets that pad what does not fit
take another path elsewhere, and a graph has one."""
OPEN_LENGTHS_S = 300
"""Seconds of processor time, at most, for an attempt to export a network that fills its windows
itself without their multiple, which may keep `torch.export` busy for hours; with it most are done
in a minute. What a file becomes does not depend on what else the computer does."""
ROUNDS = (
    "divide a slice by its maximum where forward begins, and subtract a mean before squares or "
    "large numbers are summed: the network rounds less then"
)
"""Advice for a network that misses the bar by rounding."""
CENTRED_BELOW_DB = 115.0
"""Agreement with PyTorch below which a network with instance norms is tried with centred ones: 15
dB above what is required, as other matrices and images may have less than those of the gate."""
Maker = Callable[[], nn.Module]
Pair = tuple[GateInput, FloatArray]
"""A batch, and what PyTorch makes of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """One way to export: what is left open."""

    matrix_open: bool
    batch_open: bool
    multiple: int = 1
    """What an open matrix is a multiple of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lowered:
    """What came back from the process that lowered the network."""

    proto: onnx.ModelProto
    results: list[FloatArray]
    """What PyTorch computed, for each of the gate's inputs."""


def export_module(
    module: nn.Module | Maker,
    output: Path | str,
    *,
    upscale: int,
    name: str,
    multiple: int | None = None,
    fixed_matrix: Matrix | None = None,
    padding: Padding = "reflect",
    input: Input = "image",
    coils: int = 0,
    kspace_output: bool = False,
    data_consistency: DataConsistency = "none",
    output_grid: OutputGrid | None = None,
    homogeneous: bool = False,
    output_range: tuple[float, float] | None = None,
    lowering: Lowering = "gemm",
    description: str = "",
    provenance: Provenance | None = None,
    backend: str = "ort-cpu",
    force: bool = False,
    report_file: Path | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> Exported:
    """Export a network of one's own, prove it at several matrices, and write it if it passed.

    Parameters
    ----------
    module
        In evaluation mode, float32, ``(n, 1, y, x) -> (n, 1, s*y, s*x)``; or a function that makes
        it, which is then called in the process that exports. Plain ``torch.fft`` and complex
        tensors inside are lowered; `kspacesr_rt.layers` has layers to build with.
    output
        The ``.onnx`` file to write.
    upscale
        SR samples per LR sample and axis.
    name
        Short name of the model.
    multiple
        What rows and columns must be multiples of, as windows or pooling need it; None finds it by
        running the network. Other matrices are padded, and the result is cropped.
    fixed_matrix
        The only LR ``(rows, columns)`` the network takes; None lets it be open, and falls back to
        one matrix, with a remark, for a network that is right at no other.
    padding
        How a matrix is padded: ``reflect`` or ``kspace``.
    input, coils, kspace_output
        ``kspace``: the network takes ``(n, 2, ky, kx)``, or with `coils` ``(n, coils, 2, ky, kx)``,
        and gives an image, or the same of k-space.
    data_consistency, output_grid, homogeneous, output_range
        What is declared of the network: measured now, and then checked on every slice. A grid that
        is not stated is measured with a blob.
    lowering
        What stands in the bodies of the FFT layers; the file says ``none`` if there are no such.
    description, provenance
        For the model's card: text of one's own, training, licence, whom to credit.
    backend
        Which backend the gate runs the model on.
    force
        Replace an existing file (only by a model that passed).
    report_file
        Where to write every number the gate measured, passed or not.
    time_limit_s
        Seconds that running the network, and each attempt to export it, may take. After an attempt
        at any matrix that took longer, one matrix is tried.

    Raises
    ------
    ExportError
        If it is no such network, or something in it has no lowering; the place in its source is
        named.
    ExporterError
        If PyTorch's exporter fails on it, takes its process down, or is not done in time.
    ParityError
        If what was exported does not compute the same, or is not as declared; no file is left.
    OutputError
        If the file exists, or cannot be written.

    Returns
    -------
        Where the model is, what it is, and what the gate measured.

    Examples
    --------
    >>> import torch
    >>> import kspacesr_rt as ks
    >>> net = torch.nn.Upsample(scale_factor=2, mode="bilinear").eval()
    >>> exported = ks.export_module(net, "bilinear.onnx", upscale=2, name="bilinear")
    >>> exported.spec.architecture, exported.spec.output_grid
    ('custom', 'pixel-centre')
    """
    spec = ModelSpec(
        name=name,
        architecture="custom",
        upscale=upscale,
        matrix=fixed_matrix or (0, 0),
        fixed_matrix=fixed_matrix or (0, 0),
        matrix_multiple=1 if fixed_matrix else multiple or 1,
        padding=padding,
        input=input,
        coils=coils,
        output="kspace" if kspace_output else "real",
        normaliser="none",
        data_consistency=data_consistency,
        output_grid=output_grid or "kspace",
        grid_source="declared" if output_grid else "assumed",
        homogeneous=homogeneous,
        output_range=output_range or (),
        lowering=lowering,
        description=description,
        provenance=stamped(provenance or Provenance(), torch=torch.__version__),
    )
    return export_as(
        spec,
        module,
        Path(require_path(output, "output")),
        multiple=multiple,
        grid_stated=output_grid is not None,
        backend=backend,
        force=force,
        report_file=report_file,
        time_limit_s=time_limit_s,
    )


def export_as(
    spec: ModelSpec,
    module: nn.Module | Maker,
    output: Path,
    *,
    multiple: int | None,
    grid_stated: bool,
    backend: str,
    force: bool,
    report_file: Path | None,
    time_limit_s: float = TIME_LIMIT_S,
) -> Exported:
    """Export a network of a stated specification; `export_module` says the rest.

    Parameters
    ----------
    spec
        What the network is. Its `matrix`, where none is fixed, is what the file is stored for;
        (0, 0) stands for `HR_NOMINAL` over the upscale.
    module, output, backend, force, report_file, time_limit_s
        As for `export_module`, whose errors these are.
    multiple
        What rows and columns must be multiples of; None finds it by running the network.
    grid_stated
        Whether whoever exports says where SR samples lie.
    """
    require_free(output, force=force, report_file=report_file)
    if isinstance(module, nn.Module) or not callable(module):
        require_usable(module)
    layout = Layout(upscale=spec.upscale, input_axes=spec.input_axes, output_axes=spec.output_axes)
    fixed = spec.fixed_matrix if any(spec.fixed_matrix) else None
    require_checkable(spec)

    def maker() -> nn.Module:
        made: nn.Module = unwrapped(module if isinstance(module, nn.Module) else module())
        return made

    report_step("running the network on several matrices")
    nominal = spec.matrix if any(spec.matrix) else _nominal(spec.upscale, multiple or 1)
    facts = in_own_process(
        lambda: probed(maker(), layout, multiple=multiple, fixed=fixed, nominal=nominal),
        "running the network",
        time_limit_s,
    )
    return _Export(
        maker=maker,
        layout=layout,
        facts=facts,
        spec=spec,
        output=output,
        backend=backend,
        multiple_stated=multiple is not None,
        fixed_stated=fixed is not None,
        grid_stated=grid_stated,
        report_file=report_file,
        time_limit_s=time_limit_s,
    ).written()


def _nominal(upscale: int, multiple: int) -> Matrix:
    length = max(HR_NOMINAL // upscale // multiple, 1) * multiple
    return length, length


@dataclass(frozen=True, kw_only=True, slots=True)
class _Export:
    """One export, from the facts of its probe to the file."""

    maker: Maker
    layout: Layout
    facts: Probed
    spec: ModelSpec
    output: Path
    backend: str
    multiple_stated: bool
    fixed_stated: bool
    grid_stated: bool
    report_file: Path | None
    time_limit_s: float

    def written(self) -> Exported:
        """Try one way after another; write the first that is right."""
        found: KspaceSRError | None = None
        tried: list[str] = []
        too_long: set[tuple[bool, int]] = set()
        for way in self._ways():
            if (way.matrix_open, way.multiple) in too_long:
                continue
            report_step(f"exporting the network, {_described(way)}")
            try:
                return self._through(way, tuple(tried))
            except KspaceSRError as exc:
                if not isinstance(exc, ExporterError | ParityReportError):
                    raise
                found = found or exc
                if isinstance(exc, TimeLimitError):  # one slice at a time would take as long
                    too_long.add((way.matrix_open, way.multiple))
                tried.append(f"{_described(way)}: {exc}")
        assert found is not None
        raise found.error if isinstance(found, ParityReportError) else found

    def _ways(self) -> list[_Way]:
        batches = [True, False] if self.facts.batches else [False]
        matrices = [False] if self.facts.fixed is not None else [True, False]
        # One slice at a time is the smaller loss: window transformers count their batch by dividing
        # lengths, which holds it to a number.
        least, windows = self.facts.multiple, self.facts.windows
        steps = [least]
        if not self.multiple_stated:
            if windows > least and windows % least == 0:
                steps = [least, windows]
            elif least < EVEN_THROUGHOUT and EVEN_THROUGHOUT % least == 0:
                steps = [least, EVEN_THROUGHOUT]
        return [
            _Way(matrix_open=matrix, batch_open=batch, multiple=step)
            for matrix in matrices
            for step in (steps if matrix else [least])
            for batch in batches
        ]

    def _through(self, way: _Way, tried: tuple[str, ...]) -> Exported:
        multiple = way.multiple
        nominal = self.facts.fixed or (
            self.spec.matrix if any(self.spec.matrix) else _nominal(self.spec.upscale, multiple)
        )
        fixed = not way.matrix_open
        spec = dataclasses.replace(
            self.spec,
            matrix=nominal,
            matrix_multiple=1 if fixed else multiple,
            fixed_matrix=nominal if fixed else (0, 0),
            single_slice=not way.batch_open,
        )
        inputs = gate_inputs(
            self.layout, multiple, nominal if fixed else None, self.facts.elsewhere
        )
        first_of_two = way.matrix_open and multiple < self.facts.windows
        lowered = in_own_process(
            lambda: _lowered(self.maker(), spec, inputs, way),
            "exporting the network",
            self.time_limit_s,
            processor_limit_s=OPEN_LENGTHS_S if first_of_two and not self.multiple_stated else None,
        )
        spec = dataclasses.replace(
            spec,
            opset=opset_of(lowered.proto),
            lowering=spec.lowering if has_transforms(lowered.proto) else "none",
        )
        candidate = ModelFile(name=self.output.name, proto=lowered.proto, spec=spec, size_bytes=0)
        report_step(f"proving {spec.name} on {self.backend}")
        pairs = [
            (dataclasses.replace(given, gated=given.gated and _is_finite(result)), result)
            for given, result in zip(inputs, lowered.results, strict=True)
        ]
        candidate, pairs, report = self._proved(candidate, pairs)
        if self.report_file is not None:
            replace_file(self.report_file, json.dumps(report.to_dict(), indent=1).encode())
        if report.failures:
            raise ParityReportError(report)
        return self._finished(candidate, pairs, report, tried)

    def _proved(
        self, candidate: ModelFile, pairs: list[Pair]
    ) -> tuple[ModelFile, list[Pair], ParityReport]:
        """Return the candidate, or that with centred norms where it agrees better, and how well."""
        report = self._gated(candidate, pairs)
        if report.least_db < CENTRED_BELOW_DB:
            centred = with_centred_norms(candidate)
            if centred is not None:
                second = self._gated(centred, pairs)
                if second.least_db > report.least_db:
                    candidate, report = centred, second
        if report.failures:
            pairs, report = self._judged_in_fp64(candidate, pairs, report)
        return candidate, pairs, report

    def _judged_in_fp64(
        self, candidate: ModelFile, pairs: list[Pair], report: ParityReport
    ) -> tuple[list[Pair], ParityReport]:
        """Judge cases below the bar by what PyTorch gives in fp64, which then stands for its fp32.

        Nothing changes where the network does not run in fp64.
        """
        below = [
            pair
            for pair, one in zip(_gated(pairs), report.agreements, strict=True)
            if LEAST_ROUNDED_DB <= one.psnr_between_db < TIERS["exact"].psnr_between_db
        ]
        if not below:
            return pairs, report
        report_step("running the network in fp64, to see what it rounds by itself")
        exact = in_double(
            self.maker,
            [given.values for given, _ in below],
            time_limit_s=self.time_limit_s,
        )
        if not exact:
            return pairs, report
        backends = OpenBackends(candidate, self.backend)
        checks = [
            double_check(backends, given, result, wide)
            for (given, result), wide in zip(below, exact, strict=True)
        ]
        wide_of = {
            given.name: wide.astype(np.float32)
            for (given, _), wide in zip(below, exact, strict=True)
        }
        pairs = [(given, wide_of.get(given.name, result)) for given, result in pairs]
        return pairs, report_of(self.backend, list(report.agreements), checks)

    def _gated(self, candidate: ModelFile, pairs: list[Pair]) -> ParityReport:
        backends = OpenBackends(candidate, self.backend)
        try:
            return report_of(
                self.backend,
                [agreement_at(backends, given, result) for given, result in _gated(pairs)],
            )
        except ModelFileError as exc:
            raise ExporterError(f"what PyTorch's exporter wrote cannot be used: {exc}") from exc

    def _finished(
        self,
        candidate: ModelFile,
        pairs: list[Pair],
        report: ParityReport,
        tried: tuple[str, ...],
    ) -> Exported:
        spec, remarks, notes = candidate.spec, [], report.to_dict()
        run = _single_runner(candidate, self.backend)
        if any(spec.fixed_matrix) and not self.fixed_stated:
            rows, columns = spec.fixed_matrix
            why = f" ({tried[0]})" if tried else ""
            remarks.append(f"{ONE_MATRIX}: written for a LR matrix of {rows} x {columns}{why}")
        if not any(spec.fixed_matrix):
            remarks.append(_matrices_remark([given for given, _ in _gated(pairs)]))
        if spec.matrix_multiple > 1 and not self.multiple_stated:
            remarks.append(multiple_remark(spec, self.facts.multiple, tried))
        if spec.single_slice:
            why = f" ({tried[0]})" if tried and not any(spec.fixed_matrix) else ""
            remarks.append(f"takes one slice at a time: batches are run slice by slice{why}")
        if any(given.scanner_units and not given.gated for given, _ in pairs):
            remarks.append(
                f"{OVERFLOWS}: of a phantom times {SCANNER_UNITS:g} PyTorch's own "
                "result is not finite, and such slices fail (non-finite); divide a slice by its "
                "maximum where forward begins, and multiply by it at the end"
            )
        if spec.input == "image":
            placement = find_placement(spec, run)
            if not self.grid_stated and placement.conclusive and placement.fitting is not None:
                spec = dataclasses.replace(
                    spec, output_grid=placement.fitting, grid_source="measured"
                )
                placement = find_placement(spec, run)
            require_placed(placement)
            notes["placement"] = placement.to_dict()
            remarks.append(placement.as_text())
            require_contracts(spec, run)
        elif spec.homogeneous or spec.data_consistency != "none":
            _require_declared(candidate, pairs[0][0], self.backend)
        remarks += [f"{one.case}: {one.as_text()}" for one in report.in_fp64]
        remarks += self._elsewhere(candidate, pairs)
        answer = next(
            KnownAnswer(lr=_slice_of(given.values, spec.input), sr=_slice_of(result, spec.output))
            for given, result in pairs
            if given.known_answer
        )
        spec = dataclasses.replace(spec, parity=notes)
        content = finished(candidate.proto, spec, answer)
        replace_file(self.output, content)
        written = parse_model(content, name=self.output.name)
        return Exported(
            path=self.output,
            spec=written.spec,
            report=report,
            size_bytes=len(content),
            remarks=tuple(remarks),
        )

    def _elsewhere(self, candidate: ModelFile, pairs: list[Pair]) -> list[str]:
        """Say how the model does on OpenVINO, where that is installed."""
        if self.backend == "openvino" or BACKENDS["openvino"].why_not() is not None:
            return []
        given, result = next(pair for pair in pairs if pair[0].known_answer)
        try:
            found = agreement_at(OpenBackends(candidate, "openvino"), given, result)
        except Exception as exc:  # OpenVINO raises plain RuntimeErrors
            return [f"openvino: does not run it ({type(exc).__name__})"]
        least = TIERS["exact"].psnr_between_db
        below = "" if found.psnr_between_db >= least else f", {least:.0f} are asked: not run there"
        return [f"openvino: {found.psnr_between_db:.1f} dB to PyTorch{below}"]


def _gated(pairs: Iterable[Pair]) -> list[Pair]:
    return [(given, result) for given, result in pairs if given.gated]


def _matrices_remark(inputs: Sequence[GateInput]) -> str:
    """Say at which LR matrices a network that takes any was proved, and what is not seen."""
    matrices = {(given.values.shape[-2], given.values.shape[-1]) for given in inputs}
    rows, columns = (max(lengths) for lengths in zip(*matrices, strict=True))
    return (
        f"any LR matrix: proved at {len(matrices)}, of {rows} rows and {columns} columns at most; "
        f"another path of the network beyond {LONG} rows or columns is not seen"
    )


def multiple_remark(spec: ModelSpec, least: int, tried: tuple[str, ...]) -> str:
    """Say why a file takes multiples, and what becomes of other matrices.

    Parameters
    ----------
    spec
        Of the file.
    least
        Smallest multiple that the network takes.
    tried
        What failed before.
    """
    multiple = spec.matrix_multiple
    if multiple == least:
        return (
            f"{MULTIPLES} {multiple} (found by running it): other matrices are padded "
            f"({spec.padding}) and cropped"
        )
    without = "none" if least == 1 else f"multiples of {least}"
    return (
        f"{WRITTEN_FOR} {multiple}, though the network takes other matrices too: "
        f"those are padded ({spec.padding}) and cropped, and results on them differ from "
        f"PyTorch's, where the network pads itself; --multiple {least} asks for {without}"
        f"{f' ({tried[0]})' if tried else ''}"
    )


class ParityReportError(KspaceSRError):
    """A way to export that failed the gate; another may pass."""

    def __init__(self, report: ParityReport) -> None:
        self.report = report
        self.error = self._error()
        super().__init__(str(self.error))

    def _error(self) -> KspaceSRError:
        try:
            require_parity(self.report, ROUNDS if self.report.in_fp64 else "")
        except KspaceSRError as exc:
            return exc
        raise AssertionError


def _described(way: _Way) -> str:
    matrix = "any matrix" if way.matrix_open else "one matrix"
    if way.matrix_open and way.multiple > 1:
        matrix = f"any matrix in multiples of {way.multiple}"
    return f"{matrix} and {'any' if way.batch_open else 'one'} batch"


def _lowered(
    module: nn.Module, spec: ModelSpec, inputs: Sequence[GateInput], way: _Way
) -> _Lowered:
    """Lower a network and compute its answers; runs in a process of its own."""
    require_usable(module)
    with torch.no_grad():  # what a network keeps of it must be usable when it is traced
        if _changes_input(module, inputs[0].values[:1]):
            module = _OnACopy(module).eval()
        # Slice by slice: no slice of a batch may change another's result.
        results = [_answer(module, given.values) for given in inputs]
    for given, result in zip(inputs, results, strict=True):
        if not (_is_finite(result) or given.scanner_units):
            raise ExportError(
                f"the network's output is not finite on {given.name}",
                hint="run it in PyTorch on a phantom of that matrix first",
            )
    if isinstance(module, ComplexDCResidualGenerator):  # of layers that are lowered one by one
        return _Lowered(proto=lower(module, spec, spec.lowering), results=results)
    module = without_scripts(module)
    proto = lower_module(module, spec=spec, matrix_open=way.matrix_open, batch_open=way.batch_open)
    return _Lowered(proto=proto, results=results)


class _OnACopy(nn.Module):
    """A network that changes its input in place, given a copy of it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: torch.Tensor) -> Any:
        return self.net(image.clone())


def _changes_input(module: nn.Module, values: FloatArray) -> bool:
    given = torch.from_numpy(values.copy())
    module(given)
    return not np.array_equal(given.numpy(), values)


def _is_finite(result: FloatArray) -> bool:
    return bool(np.isfinite(result).all())


def _answer(module: nn.Module, values: FloatArray) -> FloatArray:
    """Return what PyTorch makes of each slice of a batch."""
    batch = torch.from_numpy(values)
    parts = [module(batch[at : at + 1]).numpy() for at in range(len(batch))]
    return np.ascontiguousarray(np.concatenate(parts))


def _slice_of(values: FloatArray, kind: str) -> FloatArray:
    """Return the first slice of a batch; images lose their channel axis."""
    return values[0] if kind == "kspace" else values[0, 0]


def _require_declared(model: ModelFile, given: GateInput, backend: str) -> None:
    """Check what is declared of a network of k-space."""
    values = given.values
    with open_backend(backend, bind(model, (values.shape[-2], values.shape[-1]))) as opened:
        run = with_contracts(opened.run, model.spec)
        try:
            run(values)
        except ResultError as exc:
            raise ParityError(f"{exc}; no file was written", hint=exc.hint) from exc


def _single_runner(model: ModelFile, backend: str) -> Callable[[FloatArray], FloatArray]:
    from kspacesr_rt.conversion.proof import backend_runner

    return backend_runner(model, backend)
