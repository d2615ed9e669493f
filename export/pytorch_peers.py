"""What people run instead of us, from the same weights: PyTorch itself, and its exporters.

Every function returns a `Runner`: a batch in, a batch out, on the CPU or on a CUDA device. They are
for benchmarks; nothing is proved here, and a peer that is wrong must be shown as wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.export.plain_layers import with_plain_layers
from kspacesr_rt.kspace import FloatArray

Runner = Callable[[FloatArray], FloatArray]
"""LR batch ``(n, 1, y, x)`` to SR batch ``(n, 1, s*y, s*x)``, both float32."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def eager(
    generator: nn.Module,
    *,
    precision: str = "fp32",
    channels_last: bool = False,
    threads: int = 1,
    cuda: bool = False,
) -> Runner:
    """Run the generator as it is.

    Parameters
    ----------
    generator
        In evaluation mode.
    precision
        ``fp32``, or ``bf16`` or ``fp16`` for autocast: convolutions narrow, transforms do not.
    channels_last
        Lay the weights of the convolutions out for NHWC.
    threads
        CPU threads; 0 takes every core.
    cuda
        Run on the first GPU; copies there and back count. TF32 stays off, as in our rows: what is
        in fp32 is k-space.

    Raises
    ------
    BackendUnavailableError
        If there is no GPU, or PyTorch was built without CUDA.
    """
    set_threads(threads)
    device = _device(cuda)
    generator = generator.to(device)
    if channels_last:
        # Inputs of one channel have no layout of their own; NHWC weights decide.
        generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    narrow = precision != "fp32"
    dtype = DTYPES[precision]

    def run(batch: FloatArray) -> FloatArray:
        with torch.inference_mode(), torch.autocast(device, dtype=dtype, enabled=narrow):
            # The copy back waits for the GPU.
            result: FloatArray = generator(torch.from_numpy(batch).to(device)).float().cpu().numpy()
        return result

    return run


def compiled(generator: nn.Module, *, threads: int = 1, cuda: bool = False) -> Runner:
    """Run the generator through `torch.compile`; the first batch of each shape compiles.

    Raises
    ------
    BackendUnavailableError
        If this machine has no C++ compiler, which the CPU code generator needs, or, for `cuda`, no
        GPU for PyTorch.
    """
    import shutil

    device = _device(cuda)
    if not cuda and shutil.which("g++") is None and shutil.which("clang++") is None:
        raise BackendUnavailableError(
            "torch.compile needs a C++ compiler on the CPU, and there is none",
            hint="apt-get install g++",
        )
    set_threads(threads)
    made = torch.compile(generator.to(device))

    def run(batch: FloatArray) -> FloatArray:
        with torch.inference_mode():
            result: FloatArray = made(torch.from_numpy(batch).to(device)).cpu().numpy()
        return result

    return run


def exporter_graph(generator: nn.Module, batch: FloatArray, *, threads: int = 1) -> Runner:
    """Run on ONNX Runtime what `torch.onnx.export` writes: DFT ops, shifts as slices, PRelu."""
    import onnxruntime

    program = torch.onnx.export(
        with_plain_layers(generator),
        (torch.from_numpy(batch),),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise InputError("torch.onnx.export returned nothing")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def run(batch: FloatArray) -> FloatArray:
        return np.asarray(session.run(None, {name: batch})[0])

    return run


def openvino_from_pytorch(generator: nn.Module, batch: FloatArray, *, threads: int = 1) -> Runner:
    """Run what OpenVINO's own PyTorch front end makes of the generator, in fp32."""
    import openvino

    example = torch.from_numpy(batch)
    plain = with_plain_layers(generator)
    converted = openvino.convert_model(plain, example_input=example, input=list(batch.shape))
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    request: Any = openvino.compile_model(converted, "CPU", config).create_infer_request()

    def run(batch: FloatArray) -> FloatArray:
        return np.array(request.infer({0: batch})[0])

    return run


def set_threads(threads: int) -> None:
    """Tell PyTorch how many CPU threads to take; 0 leaves it every core."""
    if threads:
        torch.set_num_threads(threads)


def _device(cuda: bool) -> str:
    if not cuda:
        return "cpu"
    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"PyTorch {torch.__version__} has no CUDA device here",
            hint="install a build of PyTorch for CUDA, and the NVIDIA driver",
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"
