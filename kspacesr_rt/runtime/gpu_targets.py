"""What runs on which GPU, what is built for it, and the least that a model could cost there.

An estimate is no measurement: it is the roofline of each layer, from the data sheet's peaks, and a
launch a layer. Real kernels take more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.graph.gpu_transforms import with_gpu_transforms
from kspacesr_rt.graph.layer_costs import FFT, NO_LAYERS, PROJECTIONS, LayerCost, layer_costs
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.graph.quantisation import QUANTISED_TYPES
from kspacesr_rt.graph.sample_coefficients import FORWARD, INVERSE, SAMPLES
from kspacesr_rt.graph.split_products import PRODUCTS
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.spec import OP_DOMAIN, Lowering, Precision
from kspacesr_rt.runtime.gpu_capabilities import RTX_TARGETS, backends_of
from kspacesr_rt.runtime.suited_models import PlannedModel, require_suited, require_suited_gpu
from kspacesr_rt.runtime.tensorrt.requirements import tf32_pays
from kspacesr_rt.runtime.tensorrt.targets import NO_FP32_PRODUCTS
from kspacesr_rt.system.gpu_driver import DRIVER_FLOOR
from kspacesr_rt.system.gpu_models import GPU_MODELS, GpuModel, capability_of, find_gpu_model

LAUNCH_S = 1e-6
"""From one kernel of a CUDA graph to the next."""
ONE_KERNEL = (
    SAMPLES,
    "CentreCrop",
    "CentreFill",
    "MeanSpectrum",
    "PeakSpectrum",
    "WholeNyquist",
    "RealWholeNyquist",
)
"""FFT layers without products."""
ESTIMATED: tuple[Precision, ...] = ("fp32", "fp16")
RELOWERED = ("gemm", "conv")
"""Lowerings of which the one that a GPU takes is chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The least that one slice could cost."""

    precision: Precision
    """Of the CNN."""
    seconds: float
    """Of one slice, copies left out."""
    fft_share: float
    """Share of it in FFT layers."""
    fft_share_floor: float
    """What that share would be if FFT layers computed in no time: their traffic and launches."""
    bound: str
    """What most of it is bound by: ``memory``, ``arithmetic`` or ``launches``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuChoice:
    """One kind of GPU and what is chosen for it."""

    gpu: GpuModel
    """From its data sheet."""
    backends: dict[str, str]
    """GPU backend to why it is none there; empty where it is one."""
    lowering: str
    """Which lowering of FFT layers its first backend takes."""
    estimates: tuple[Estimate, ...]
    """By precision."""

    @property
    def backend(self) -> str | None:
        """Return the first backend there is; None if there is none."""
        return next((name for name, reason in self.backends.items() if not reason), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            **dataclasses.asdict(self.gpu),
            "driver": DRIVER_FLOOR,
            "backend": self.backend,
            "backends": self.backends,
            "lowering": self.lowering,
            "estimates": [dataclasses.asdict(one) for one in self.estimates],
        }


def describe_targets(names: Iterable[str], model: ModelFile, matrix: Matrix) -> list[GpuChoice]:
    """Return what is chosen for GPUs, and the least that a model could cost there.

    Parameters
    ----------
    names
        Of GPUs; none: every one that is known by name.
    model
        In fp32, and estimated in fp16 too, or in 16 bits, and estimated as it is.
    matrix
        LR ``(rows, columns)``.

    Raises
    ------
    InputError
        If a name is unknown, or the model is one of 8 bits: of those nothing is estimated.
    """
    named = [_model_of(name) for name in names] or list(GPU_MODELS.values())
    spec = model.spec
    if spec.precision in QUANTISED_TYPES:
        raise InputError(
            f"'{spec.name}' is in {spec.precision}: estimates are of graphs in fp32 or 16 bits",
            hint="name the fp32 model that it was made of",
        )
    precisions = ESTIMATED if spec.precision == "fp32" else (spec.precision,)
    costs: dict[Precision, list[_Cost]] = {
        precision: _costs(model, matrix, precision) for precision in precisions
    }
    choices = []
    for gpu in named:
        first = "tensorrt-rtx" if gpu.sm in RTX_TARGETS else "tensorrt"
        estimates = (
            _estimate(gpu, precision, found, spec.upscale) for precision, found in costs.items()
        )
        choices.append(
            GpuChoice(
                gpu=gpu,
                backends={
                    name: reason or _why_not(name, gpu, model)
                    for name, reason in backends_of(gpu).items()
                },
                lowering=_lowering(model, gpu, first),
                estimates=tuple(estimates),
            )
        )
    return choices


def _why_not(backend: str, gpu: GpuModel, model: ModelFile) -> str:
    """Say why a backend that a GPU has takes no such model there; empty if it does."""
    spec = model.spec
    planned = PlannedModel(
        name=spec.name,
        precision=spec.precision,
        lowering=_lowering(model, gpu, backend),
        input=spec.input,
    )
    try:
        require_suited(backend, planned)
        require_suited_gpu(backend, gpu.name, planned)
    except BackendUnavailableError as exc:
        return str(exc)
    return ""


def _lowering(model: ModelFile, gpu: GpuModel, backend: str) -> Lowering:
    """Return the lowering that a model has on a backend of a GPU."""
    if model.spec.lowering in RELOWERED:
        return lowering_for(gpu.sm, backend)
    return model.spec.lowering


def _model_of(name: str) -> GpuModel:
    if (gpu := find_gpu_model(name)) is not None:
        return gpu
    sm = capability_of(name)
    alike = [gpu.name for gpu in GPU_MODELS.values() if gpu.sm == sm]
    raise InputError(
        f"'{name}' is known by its compute capability sm{sm} alone, not by its memory and rates",
        hint=f"such are: {', '.join(alike)}" if alike else "kspacesr-rt targets lists names",
    )


def lowering_for(sm: int, runtime: str) -> Lowering:
    """Return how FFT layers are lowered for a GPU."""
    return "conv" if runtime == "tensorrt-rtx" and sm in NO_FP32_PRODUCTS else "gemm"


@dataclass(frozen=True, slots=True)
class _Cost:
    layer: LayerCost
    narrow: bool
    """Whether it computes in half precision."""
    launches: int
    """Kernels of its own, where what is elementwise in an FFT layer is fused with what stands
    before or behind it, unless that is another product."""
    projects: bool
    """Whether it is one of `kspacesr_rt.graph.layer_costs.PROJECTIONS`."""

    @property
    def in_parts(self) -> bool:
        """Say whether TF32 computes it in three parts, where it is taken."""
        return self.layer.group == FFT and not self.narrow


def _costs(model: ModelFile, matrix: Matrix, precision: Precision) -> list[_Cost]:
    same = precision == model.spec.precision
    proto = model.proto if same else narrowed(model.proto, precision)
    spec = dataclasses.replace(model.spec, precision=precision)
    bound = with_gpu_transforms(bind(dataclasses.replace(model, proto=proto, spec=spec), matrix))
    half = {
        item.name
        for item in bound.proto.graph.initializer
        if item.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    }
    graph = bound.proto.graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    costs = [
        _Cost(
            layer=layer,
            narrow=not half.isdisjoint(node.input),
            launches=_launches(node, makers.get(node.input[0], "")),
            projects=node.op_type in PROJECTIONS,
        )
        for node, layer in zip(graph.node, layer_costs(bound), strict=True)
    ]
    return [one for one in costs if one.layer.flop or one.layer.bytes(1)]


def _launches(node: onnx.NodeProto, maker: str) -> int:
    """Count a layer's kernels; `maker` is what gives its first input.

    Notes
    -----
    As TensorRT-RTX fuses them (`tests/integration/runtime/tensorrt/test_fused_layers.py`): products
    stay alone, and between those of a transform and of its inverse a mask is a kernel.
    """
    if node.op_type == INVERSE:
        return 3 if maker == FORWARD else 2
    if node.op_type in NO_LAYERS:
        return 0
    return 1 if node.domain != OP_DOMAIN or node.op_type in ONE_KERNEL else 2


def _estimate(gpu: GpuModel, precision: Precision, costs: list[_Cost], upscale: int) -> Estimate:
    seconds = {"memory": 0.0, "arithmetic": 0.0, "launches": 0.0}
    in_fft = in_fft_at_least = 0.0
    tf32 = precision != "fp32" and tf32_pays(gpu.sm, upscale)
    for cost in costs:
        layer, flop, n_bytes = cost.layer, cost.layer.flop, cost.layer.bytes(1)
        rate = gpu.fp16_tflop_s if cost.narrow else gpu.fp32_tflop_s
        launches = cost.launches
        at_least = n_bytes / (1e9 * gpu.bandwidth_gb_s) + launches * LAUNCH_S
        if tf32 and cost.in_parts and flop:
            rate = gpu.fp16_tflop_s / 2
            flop *= PRODUCTS
            # Operands and constants in parts, which a kernel before each product writes; a
            # projection's first one is written by what makes its input.
            n_parts = 4 * PRODUCTS - 2 if cost.projects else 2 * PRODUCTS - 1
            n_bytes += n_parts * layer.input_bytes + (PRODUCTS - 1) * layer.weight_bytes
            launches = 3 if cost.projects else 2 * launches
        computing, moving = flop / (1e12 * rate), n_bytes / (1e9 * gpu.bandwidth_gb_s)
        seconds["arithmetic" if computing > moving else "memory"] += max(computing, moving)
        seconds["launches"] += launches * LAUNCH_S
        if layer.group == FFT:
            in_fft += max(computing, moving) + launches * LAUNCH_S
            in_fft_at_least += at_least
    total = sum(seconds.values())
    return Estimate(
        precision=precision,
        seconds=total,
        fft_share=in_fft / total,
        fft_share_floor=in_fft_at_least / (total - in_fft + in_fft_at_least),
        bound=max(seconds, key=seconds.__getitem__),
    )


def targets_text(choices: Sequence[GpuChoice], model: str, matrix: Matrix) -> str:
    """Return a table for a terminal of 80 columns, and what its figures are."""
    of_half = next((one.precision for one in choices[0].estimates if one.precision != "fp32"), "")
    half = f"{of_half} us"
    head = f"{'GPU':<11} {'SM':<5} {'memory':>6} {'GB/s':>5} {'fp32 us':>8} {half:>8} {'FFT':>4}"
    lines = [f"{head}  {'bound by':<10}  auto takes"]
    there: dict[str, list[str]] = {}
    for one in choices:
        gpu = one.gpu
        *wide, narrow = one.estimates
        in_fp32 = f"{wide[0].seconds * 1e6:.0f}" if wide else "-"
        lines.append(
            f"{gpu.name:<11} {gpu.label:<5} {gpu.memory_gb:>3} GB {gpu.bandwidth_gb_s:>5}"
            f" {in_fp32:>8} {narrow.seconds * 1e6:>8.0f}"
            f" {narrow.fft_share:>4.0%}  {narrow.bound:<10}  {one.backend or 'none'}"
        )
        listed = ", ".join(name for name, reason in one.backends.items() if not reason)
        reasons = "; ".join(dict.fromkeys(reason for reason in one.backends.values() if reason))
        there.setdefault(listed or f"none: {reasons}", []).append(gpu.name)
    return "\n".join(
        [
            *lines,
            "",
            "Backends there, the first one by auto:",
            *(f"  {', '.join(gpus)}: {listed}" for listed, gpus in there.items()),
            "",
            f"Times are estimates, not measured: {model}, a slice of {matrix[0]} x {matrix[1]}. "
            "They are the least it could take: every layer at the data sheet's peak of arithmetic "
            "or memory traffic, whichever takes longer, a microsecond a launch, no copies. Expect "
            f"more. FFT: its share in {of_half}, before a builder fuses layers.",
            f"Every one needs NVIDIA driver {DRIVER_FLOOR} or newer (CUDA 13). fp16 is the 16-bit "
            "path; 8 bits are no gain.",
            "AMD, Intel and Apple GPUs: ort-webgpu.",
        ]
    )
