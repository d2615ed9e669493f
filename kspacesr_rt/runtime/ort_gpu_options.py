"""What ONNX Runtime's providers for NVIDIA GPUs are given."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.gpu_transforms import with_gpu_transforms
from kspacesr_rt.graph.right_hand_products import with_right_hand_constants
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.file import INPUT_NAME
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.context_model import ContextModel
from kspacesr_rt.system.cache_folder import default_folder

CUDA, TENSORRT, CPU = (
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "CPUExecutionProvider",
)
PROVIDER_OF = {"ort-cuda": CUDA, "ort-tensorrt": TENSORRT}
EIGHT_BITS = ("int8", "fp8")


def precision_notes(name: str, spec: ModelSpec) -> tuple[str, ...]:
    """Return what a user should know of a model's precision on a provider."""
    if PROVIDER_OF[name] == CUDA and spec.precision in EIGHT_BITS:
        return (
            f"{spec.precision} is no gain on {name}: ONNX Runtime's CUDA provider convolves in "
            "fp32 and rounds in kernels of its own; export with --precision fp16",
        )
    return ()


def provider_graph(name: str, model: BoundModel) -> onnx.ModelProto:
    """Return a model as a provider is given it.

    Flat, with the FFT layers of `with_gpu_transforms`; for CUDA, with constants on the right.
    """
    if PROVIDER_OF[name] != CUDA:
        return flattened(with_gpu_transforms(model).proto)
    # It fuses nothing elementwise: two products are fewer kernels than what lays samples out.
    flat = flattened(with_gpu_transforms(model, fused=False).proto)
    return with_right_hand_constants(flat)


def cuda_options(spec: ModelSpec, *, graph: bool = True) -> dict[str, str]:
    """Return the CUDA provider's options for a model.

    Parameters
    ----------
    spec
        Of the bound model; TF32 stays off for every precision, since what is in fp32 is k-space.
    graph
        Whether runs are captured as a CUDA graph, which needs one shape per session.
    """
    return {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "fuse_conv_bias": "1",
        "prefer_nhwc": "1" if spec.precision != "fp32" else "0",
        "enable_cuda_graph": "1" if graph else "0",
    }


def tensorrt_options(
    spec: ModelSpec, batch: tuple[int, int, int], timings: Path | None
) -> dict[str, str]:
    """Return the TensorRT provider's options for a bound model.

    Parameters
    ----------
    spec
        Of the bound model.
    batch
        Smallest, usual and largest batch: the engine's optimisation profile.
    timings
        Folder for the builder's timings; None measures anew in every build.

    Notes
    -----
    The precision is in the graph, so the provider's own fp16, bf16 and int8 switches stay off. Its
    engine cache stays off, too: a context model holds the engine (`context_options`), and the
    provider takes no absolute folder for the cache beside one.
    """
    lengths = "x".join(map(str, (*spec.input_axes, *spec.matrix)))
    names = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
    options = {name: f"{INPUT_NAME}:{n}x{lengths}" for name, n in zip(names, batch, strict=True)}
    options |= {
        "trt_fp16_enable": "False",  # its parser takes no 0 and 1, unlike the CUDA provider's
        "trt_bf16_enable": "False",
        "trt_int8_enable": "False",
        "trt_cuda_graph_enable": "True",
        "trt_builder_optimization_level": "5",
    }
    if timings is not None:
        options |= {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(timings)}
    return options


def context_options(context: ContextModel) -> dict[str, str]:
    """Return the TensorRT provider's options that make it write a context model."""
    return {
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": str(context.being_written),
        # The engine inside the file, so that there is one thing to check and none to lose.
        "trt_ep_context_embed_mode": "1",
    }


def engine_folder(content: bytes, versions: str) -> Path:
    """Return where the TensorRT provider may keep the engines of one bound model.

    Parameters
    ----------
    content
        The bound model.
    versions
        Versions of ONNX Runtime and TensorRT, and the GPU, that an engine is tied to.

    Notes
    -----
    The provider names engines by the shape of the graph, not by its weights: two models of one
    architecture would share an engine. So each has a folder named by all that went into it.
    """
    digest = hashlib.sha256(content + versions.encode()).hexdigest()
    return default_folder("ort-tensorrt") / digest[:32]
