"""Engines are built for GPUs that are not here, keep the model's types, and say why if they cannot.

TensorRT-RTX's builder needs no GPU, so most of this is the real thing. What differs in TensorRT 10
and 11 is shown to a stand-in that records what it is told.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.conversion.calibration import observe
from kspacesr_rt.errors import (
    BackendUnavailableError,
    EngineError,
    InputError,
    ModelFileError,
    OutputError,
)
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.graph.quantisation import best_scale, network_convolutions, quantised
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, parse_model, shipped_models
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.runtime.tensorrt import build, inputs, requirements
from kspacesr_rt.runtime.tensorrt.adapter import compile_engine
from kspacesr_rt.runtime.tensorrt.build import build_engine, compile_in_subprocess
from kspacesr_rt.runtime.tensorrt.failures import builder_failure
from kspacesr_rt.runtime.tensorrt.fused_layers import FusedLayer
from kspacesr_rt.runtime.tensorrt.inputs import EngineInputs, EngineOptions, resolve_inputs
from kspacesr_rt.runtime.tensorrt.library import load_runtime
from kspacesr_rt.runtime.tensorrt.sidecar import EngineInfo, load_engine, read_sidecar, sidecar_path
from kspacesr_rt.runtime.tensorrt.targets import RTX_TARGETS, GpuTarget, resolve_target
from kspacesr_rt.runtime.tensorrt.worker import PhaseProgress
from kspacesr_rt.system import gpu_driver

MATRIX = (40, 33)
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)


def in_precision(model, precision):
    """Make the CNN of a model narrow, as `export --precision` does."""
    spec = dataclasses.replace(model.spec, precision=precision)
    return dataclasses.replace(model, spec=spec, proto=narrowed(model.proto, precision))


def quantised_for_tensorrt(model, precision):
    """Put the CNN but its ends in 8 bits, as `export --runtime tensorrt-rtx` does."""
    nodes = network_convolutions(model.proto)
    names = [node.input[0] for node in nodes]
    met = observe(model, [brain_phantom(MATRIX).astype(np.float32)], names)
    proto = quantised(
        model.proto,
        precision,
        {name: best_scale(values, precision) for name, values in met.items()},
        wide=[nodes[0].name, nodes[-1].name],
    )
    spec = dataclasses.replace(model.spec, precision=precision)
    return dataclasses.replace(model, spec=spec, proto=proto)


def changed(model, change):
    """Return a model whose graph was changed behind the back of its digest."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    change(proto)
    return dataclasses.replace(model, proto=proto)


@pytest.fixture(scope="module")
def shipped():
    return {name: load_model(path) for name, path in shipped_models().items()}


class FakeDriver:
    """libcuda, as far as it is asked."""

    def __init__(self, *, status=0, sm=89, name=b"NVIDIA L4", cuda=13000):
        self.status, self.sm, self.name, self.cuda = status, sm, name, cuda

    def cuDriverGetVersion(self, version):
        version._obj.value = self.cuda
        return 0

    def cuInit(self, flags):
        return self.status

    def cuDeviceGet(self, device, index):
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, buffer, size, device):
        buffer.value = self.name
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: self.sm // 10, 76: self.sm % 10}[attribute]
        return 0

    def cuDeviceGetPCIBusId(self, buffer, size, device):
        buffer.value = b"0000:01:00.0"
        return 0

    def cuGetErrorString(self, status, text):
        text._obj.value = b"no CUDA-capable device is detected" if status == 100 else None
        return 0


def pretend(monkeypatch, **what):
    """Put a GPU into this machine, or a driver without one."""
    monkeypatch.setattr(gpu_driver, "CDLL", lambda name: FakeDriver(**what))


@pytest.fixture
def no_driver(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(gpu_driver, "CDLL", missing)


# --- the driver -----------------------------------------------------------------------------------


def test_no_driver_is_told_from_no_gpu(monkeypatch, no_driver):
    """A laptop lacks the first, a container started without --gpus the second."""
    assert gpu_driver.why_no_gpu() == (
        f"there is no NVIDIA driver here: {gpu_driver.LIBRARY} cannot be loaded"
    )
    pretend(monkeypatch, status=100)
    assert gpu_driver.why_no_gpu() == (
        "the NVIDIA driver has no GPU to give: error 100, no CUDA-capable device is detected"
    )
    monkeypatch.delenv(gpu_driver.VISIBLE, raising=False)
    with pytest.raises(BackendUnavailableError) as caught:
        gpu_driver.current_gpu()
    assert caught.value.hint.startswith("nvidia-smi lists the driver's GPUs (in a container")
    for hidden in ("", "-1"):
        monkeypatch.setenv(gpu_driver.VISIBLE, hidden)
        with pytest.raises(BackendUnavailableError) as caught:
            gpu_driver.current_gpu()
        assert caught.value.hint == (
            f"CUDA_VISIBLE_DEVICES is '{hidden}': unset it, or name one of nvidia-smi's GPUs"
        )
    pretend(monkeypatch, status=999)
    assert "error 999, unknown error" in gpu_driver.why_no_gpu()
    with pytest.raises(BackendUnavailableError) as caught:
        gpu_driver.current_gpu()
    assert caught.value.hint == (
        "install the NVIDIA driver, version 580 or newer (in a container: start it with --gpus all)"
    )


@pytest.mark.parametrize(("cuda", "newest"), [(12090, "12.9"), (12080, "12.8"), (11020, "11.2")])
def test_a_driver_before_cuda_13_is_too_old(monkeypatch, cuda, newest):
    """Libraries would say error 35; what a user can do is update the driver."""
    pretend(monkeypatch, cuda=cuda)
    with pytest.raises(BackendUnavailableError) as caught:
        gpu_driver.current_gpu()
    assert str(caught.value) == (
        f"the NVIDIA driver here runs programs up to CUDA {newest}, and CUDA 13 needs driver 580 "
        "or newer"
    )
    assert caught.value.hint.startswith("install NVIDIA driver 580 or newer")
    pretend(monkeypatch, cuda=13010)
    assert gpu_driver.current_gpu().cuda == "13.1"


def test_the_driver_names_the_gpu(monkeypatch):
    """Its name and capability are half of what an engine is tied to."""
    pretend(monkeypatch)
    assert gpu_driver.why_no_gpu() is None
    assert gpu_driver.current_gpu() == gpu_driver.Gpu(name="NVIDIA L4", sm=89, cuda="13.0")
    assert gpu_driver.bus_id() == "0000:01:00.0"
    pretend(monkeypatch, sm=120)
    assert gpu_driver.current_gpu().sm == 120


@needs_rtx
def test_the_registry_tells_the_truth_about_the_gpu(monkeypatch, no_driver):
    """Installed is not usable: the listing asks for a driver, and RTX for a GPU it knows."""
    info = BACKENDS["tensorrt-rtx"]
    assert info.why_not() == (
        "backend 'tensorrt-rtx' cannot run here: there is no NVIDIA driver here: "
        f"{gpu_driver.LIBRARY} cannot be loaded"
    )
    assert info.hint().startswith("install the NVIDIA driver")
    assert info.hint().endswith(
        "engines for other machines build here: kspacesr-rt build --gpu sm89"
    )
    pretend(monkeypatch)
    monkeypatch.setattr(gpu_driver, "find_spec", lambda name: None)
    assert info.why_not().endswith("cannot run here: the package 'cuda-bindings' is not installed")
    monkeypatch.setattr(gpu_driver, "find_spec", lambda name: name)
    pretend(monkeypatch, sm=90)
    assert "TensorRT-RTX does not support sm90; it knows sm75, " in info.why_not()
    pretend(monkeypatch)
    assert info.why_not() is None
    missing = dataclasses.replace(info, needs="no_such_package_here")
    assert missing.hint() == "pip install 'kspacesr-rt[trt-rtx]'"


def test_asking_for_a_gpu_loads_no_library():
    """`kspacesr-rt backends` must not load hundreds of megabytes, nor crash in them."""
    code = (
        "import sys\nfrom kspacesr_rt.runtime.backends import BACKENDS\n"
        "for info in BACKENDS.values(): info.why_not()\n"
        "heavy = ('onnx', 'tensorrt', 'tensorrt_rtx', 'cuda.bindings')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- targets and requirements ---------------------------------------------------------------------


def test_tensorrt_rtx_builds_for_any_gpu_it_knows(no_driver):
    """No GPU is needed, and none is in the target: any of that capability will do."""
    for sm in RTX_TARGETS:
        assert resolve_target(f" SM{sm} ", "tensorrt-rtx") == GpuTarget(sm=sm)


def test_the_current_gpu_needs_a_driver(monkeypatch, no_driver):
    """The error says how to do without one."""
    with pytest.raises(BackendUnavailableError, match="no GPU to build for: there is no") as caught:
        resolve_target("current", "tensorrt-rtx")
    assert caught.value.hint.startswith("name the GPU the engine is for: --gpu sm75 or sm80 or ")
    with pytest.raises(BackendUnavailableError, match="there is no NVIDIA driver"):
        resolve_target("sm89", "tensorrt")
    pretend(monkeypatch, sm=86)
    assert resolve_target("current", "tensorrt-rtx") == GpuTarget(sm=86)


def test_tensorrt_builds_for_the_gpu_it_tunes_on(monkeypatch):
    """Its engines are not portable, even between GPUs of one capability: the name is kept."""
    pretend(monkeypatch)
    assert resolve_target("current", "tensorrt") == GpuTarget(sm=89, name="NVIDIA L4")
    assert resolve_target("sm89", "tensorrt") == GpuTarget(sm=89, name="NVIDIA L4")
    with pytest.raises(EngineError) as caught:
        resolve_target("sm86", "tensorrt")
    assert str(caught.value) == (
        "TensorRT builds for the GPU it runs on (NVIDIA L4, sm89), not for sm86"
    )
    assert caught.value.hint == "build it there, or with --runtime tensorrt-rtx"


@pytest.mark.parametrize("gpu", ["ampere", "89", "sm", "sm9", "sm89,sm86", ""])
def test_a_misspelt_gpu_lists_the_known_ones(gpu):
    """A typo is answered with what could have been meant."""
    with pytest.raises(InputError) as caught:
        resolve_target(gpu, "tensorrt-rtx")
    assert str(caught.value) == f"no GPU target is called '{gpu}'"
    assert "one of: sm75, sm80, sm86, " in caught.value.hint
    assert "kspacesr-rt targets" in caught.value.hint


def test_hopper_is_no_target_of_tensorrt_rtx(monkeypatch):
    """An H100 is sent to TensorRT, whether it was named or found."""
    pretend(monkeypatch, sm=90, name=b"NVIDIA H100")
    for gpu in ("sm90", "current"):
        with pytest.raises(EngineError, match="TensorRT-RTX does not support sm90") as caught:
            resolve_target(gpu, "tensorrt-rtx")
        assert caught.value.hint == "on such a GPU use --runtime tensorrt"
        assert caught.value.exit_code == 3


def with_fp8_weight(proto):
    values = np.ones(4, helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN))
    proto.graph.initializer.append(numpy_helper.from_array(values, "eight"))


@pytest.mark.parametrize(
    ("precision", "lowering", "sm", "lack", "hint"),
    [
        ("fp32", "gemm", 75, "no fp32 matrix products, which FFT layers", "--fft conv"),
        ("fp16", "dynamic", 75, "no fp32 matrix products, which FFT layers", "--fft conv"),
        ("bf16", "conv", 75, "it has no bf16", "--precision fp16"),
        ("fp8", "gemm", 86, "it has no fp8", "fp8 needs sm89 or newer"),
        ("fp8", "gemm", 80, "it has no fp8", "fp8 needs sm89 or newer"),
    ],
)
def test_what_a_gpu_lacks_is_said_before_building(model, precision, lowering, sm, lack, hint):
    """The builder would say it after the work, and in the words of its compiler."""
    if precision == "fp8":
        wanted = changed(model, with_fp8_weight)
    else:
        wanted = in_precision(model, precision)
    bound = bind(wanted, MATRIX)
    bound = dataclasses.replace(bound, spec=dataclasses.replace(bound.spec, lowering=lowering))
    with pytest.raises(EngineError) as caught:
        requirements.require_buildable(bound, "tensorrt-rtx", GpuTarget(sm=sm))
    assert str(caught.value).startswith(f"'{model.spec.name}' cannot be built for sm{sm}: ")
    assert lack in str(caught.value)
    assert hint in caught.value.hint
    requirements.require_buildable(bound, "tensorrt-rtx", GpuTarget(sm=89))


def test_tensorrt_has_fp32_products_on_every_gpu(model):
    """What TensorRT-RTX lacks on Turing is no lack of the GPU."""
    requirements.require_buildable(bind(model, MATRIX), "tensorrt", GpuTarget(sm=75))


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt-lean"}, "no engine runtime is called 'tensorrt-lean'"),
        ({"batch": (0, 1, 2)}, "is not 1 <= fewest <= usual <= most"),
        ({"batch": (1, 4, 2)}, "is not 1 <= fewest <= usual <= most"),
        ({"optimisation_level": 6}, "optimisation level 6 is outside 0 to 5"),
        ({"workspace_bytes": 0}, "a workspace of 0 bytes is none"),
        ({"workspace_bytes": 2**63}, f"a workspace of {2**63} bytes is none"),
    ],
)
def test_impossible_options_are_refused(options, message):
    """Before anything is loaded."""
    with pytest.raises(InputError, match=message):
        EngineOptions(**options)


@needs_rtx
def test_tf32_is_only_for_models_that_promise_less_than_fp32(model):
    """It costs 60 dB in the FFT; an fp32 model was proved without it."""
    asked = EngineOptions(gpu="sm89", tf32=True)
    with pytest.raises(InputError) as caught:
        resolve_inputs(bind(model, MATRIX), asked)
    assert str(caught.value) == f"'{model.spec.name}' is an fp32 model: TF32 would break its parity"
    assert resolve_inputs(bind(in_precision(model, "fp16"), MATRIX), asked).tf32


INPUTS = EngineInputs(
    runtime="tensorrt",
    runtime_version="10.16.1",
    gpu="sm89",
    gpu_name="NVIDIA L4",
    onnx_sha256="0" * 64,
    precision="fp32",
    matrix=MATRIX,
    batch=(1, 2, 4),
    tf32=False,
    workspace_bytes=None,
    optimisation_level=None,
)
OTHERS = {
    "runtime": "tensorrt-rtx",
    "runtime_version": "10.16.2",
    "gpu": "sm86",
    "gpu_name": "NVIDIA L40",
    "onnx_sha256": "1" * 64,
    "precision": "fp16",
    "matrix": (33, 40),
    "batch": (1, 2, 8),
    "tf32": True,
    "workspace_bytes": 1 << 30,
    "optimisation_level": 5,
    "recipe": inputs.RECIPE + 1,
}


def test_every_input_is_in_the_key():
    """An engine for another GPU, version, shape or flag is another engine."""
    assert OTHERS.keys() == {item.name for item in dataclasses.fields(EngineInputs)}
    keys = {dataclasses.replace(INPUTS, **{name: value}).key for name, value in OTHERS.items()}
    assert len(keys | {INPUTS.key}) == len(OTHERS) + 1
    assert EngineInputs.from_dict(json.loads(json.dumps(dataclasses.asdict(INPUTS)))) == INPUTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtime", "trt"),
        ("gpu_name", None),
        ("precision", "int4"),
        ("matrix", [40, 33, 1]),
        ("matrix", ["40", 33]),
        ("batch", 8),
        ("tf32", 0),
        ("workspace_bytes", "1G"),
        ("optimisation_level", True),
        ("recipe", -1),
    ],
)
def test_inputs_of_the_wrong_type_are_refused(name, value):
    """A sidecar is a text file that anybody may have edited."""
    values = json.loads(json.dumps(dataclasses.asdict(INPUTS))) | {name: value}
    with pytest.raises(TypeError, match=f"{name} is "):
        EngineInputs.from_dict(values)


# --- real builds ----------------------------------------------------------------------------------


def products_of(model):
    """Return the products of a model's FFT layers, and how many the last data consistency has.

    At an upscale of 2 zero-filling has two, and each data consistency; above, a transform has two,
    and so has its inverse, but for that of the LR image.
    """
    transforms = sum("FFT2c" in node.op_type for node in model.proto.graph.node)
    return (transforms, 2) if model.spec.upscale == 2 else (2 * (transforms - 1), 4)


@needs_rtx
@pytest.mark.parametrize("gpu", ["sm86", "sm89", "sm120"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["x2-fast", "x4-fast"])
def test_shipped_models_build_with_the_types_they_promise(shipped, tmp_path, name, precision, gpu):
    """The CNN computes in what the model says and data consistency in fp32, on GPUs elsewhere."""
    model = in_precision(shipped[name], precision)
    output = tmp_path / f"{name}.engine"
    built = build_engine(model, output, matrix=MATRIX, gpu=gpu)
    layers = built.info.layers
    convolutions = sum(node.op_type == "Conv" for node in model.proto.graph.node)
    assert layers["CONVOLUTION"] == {{"fp32": "FLOAT", "fp16": "HALF"}[precision]: convolutions}
    products, last = products_of(model)
    if precision == "fp16":  # the last data consistency stays in fp32
        assert layers["MATRIX_MULTIPLY"] == {"FLOAT": last, "HALF": products - last}
    else:
        assert layers["MATRIX_MULTIPLY"] == {"FLOAT": products}
    assert "PLUGIN_V3" not in layers
    assert set(layers["REDUCE"]) == {"FLOAT"}
    info, plan = load_engine(output)
    assert info == built.info
    assert len(plan) == info.size_bytes > 1e6
    assert not built.notes


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "gpu"),
    [
        ("int8", "sm86"),
        ("int8", "sm89"),
        ("int8", "sm120"),
        ("fp8", "sm89"),
        ("fp8", "sm120"),
    ],
)
@pytest.mark.parametrize("name", ["x2-fast", "x4-fast"])
def test_shipped_models_build_in_8_bits(shipped, tmp_path, name, precision, gpu):
    """What convolutions take is in 8 bits, and k-space, sums and results are in fp32."""
    model = quantised_for_tensorrt(shipped[name], precision)
    output = tmp_path / f"{name}.engine"
    built = build_engine(model, output, matrix=MATRIX, gpu=gpu)
    layers, kind = built.info.layers, {"int8": "INT8", "fp8": "FP8"}[precision]
    convolutions = network_convolutions(model.proto)
    inside = len(convolutions) - 2  # the first and the last stay in fp32
    assert layers["QUANTIZE"] == {kind: inside}
    assert layers["CONSTANT"][kind] == inside  # weights
    assert layers["DEQUANTIZE"] == {"FLOAT": 2 * inside}
    assert layers["CONVOLUTION"] == {"FLOAT": len(convolutions)}
    assert layers["MATRIX_MULTIPLY"] == {"FLOAT": products_of(model)[0]}
    assert set(layers["REDUCE"]) == {"FLOAT"}
    lengths = {"INT64"} if model.spec.upscale > 2 else set()  # where samples are laid out
    assert set(layers["ELEMENTWISE"]) == {"FLOAT"} | lengths
    assert not {"PLUGIN_V3", "PLUGIN_V2", "DFT"} & layers.keys()
    info, plan = load_engine(output)
    assert info == built.info
    assert info.inputs.precision == info.spec.precision == precision
    assert len(plan) == info.size_bytes > 1e6


@needs_rtx
@pytest.mark.parametrize("gpu", ["sm80", "sm86"])
def test_fp8_is_refused_for_a_gpu_without_it(shipped, tmp_path, gpu):
    """Ampere has int8 but no fp8: the hint names both ways on."""
    with pytest.raises(EngineError, match=f"cannot be built for {gpu}: it has no fp8") as caught:
        build_engine(
            quantised_for_tensorrt(shipped["x2-fast"], "fp8"), tmp_path / "m.engine", gpu=gpu
        )
    assert caught.value.exit_code == 3
    assert "int8" in caught.value.hint
    assert not list(tmp_path.iterdir())


@needs_rtx
def test_the_sidecar_says_what_the_engine_is_tied_to(shipped, tmp_path, monkeypatch):
    """Everything a machine that meets the engine years later has to know."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    model = shipped["x2-fast"]
    output = tmp_path / "x2.engine"
    built = build_engine(
        model, output, matrix=MATRIX, gpu="sm89", batch=(1, 2, 4), optimisation_level=2
    )
    stored = json.loads((tmp_path / "x2.engine.json").read_text())
    bound = bind(model, MATRIX)
    import tensorrt_rtx

    expected = {
        "schema": 2,
        "model": "x2-fast",
        "weights_sha256": model.spec.provenance.weights_sha256,
        "graph_sha256": model.spec.provenance.graph_sha256,
        "lowering": "gemm",
        "precision": "fp32",
        "runtime": "tensorrt-rtx",
        "runtime_version": tensorrt_rtx.__version__,
        "gpu": "sm89",
        "gpu_name": "",
        "onnx_sha256": hashlib.sha256(bound.serialized()).hexdigest(),
        "matrix": list(MATRIX),
        "batch": [1, 2, 4],
        "tf32": False,
        "workspace_bytes": None,
        "optimisation_level": 2,
        "size_bytes": output.stat().st_size,
        "plan_sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
        "created": "2023-11-14T22:13:20+00:00",
        "spec": json.loads(bound.spec.to_json()),
        "key": built.info.inputs.key,
    }
    assert {name: stored[name] for name in expected} == expected
    text = built.as_text()
    assert "x2-fast: engine of tensorrt-rtx" in text
    assert "for any sm89" in text
    kinds = [node.op_type for node in bound.proto.graph.node]
    products, _ = products_of(model)
    assert f"{kinds.count('Conv')} CONVOLUTION FLOAT, {products} MATRIX_MULTIPLY FLOAT" in text
    assert "40 x 33, x2" in text
    assert json.loads(json.dumps(built.to_dict()))["engine"] == stored


@needs_rtx
def test_the_conv_lowering_builds_where_there_is_no_fp32_product(
    make_generator, make_model, tmp_path
):
    """Turing: the way that the error for the default lowering points to."""
    model = make_model(*make_generator(), "conv")
    for precision in ("fp32", "fp16"):
        built = build_engine(
            in_precision(model, precision), tmp_path / f"{precision}.engine", gpu="sm75"
        )
        assert "MATRIX_MULTIPLY" not in built.info.layers
        transforms = sum("FFT2c" in node.op_type for node in model.proto.graph.node)
        assert built.info.layers["CONVOLUTION"]["FLOAT"] >= 2 * transforms


@needs_rtx
@pytest.mark.parametrize("lowering", ["dft", "dynamic"])
def test_a_lowering_that_no_engine_has_is_refused(make_generator, make_model, tmp_path, lowering):
    """Before the builder is asked; the hint is an export that would have worked."""
    model = make_model(*make_generator(), lowering)
    with pytest.raises(BackendUnavailableError, match=f"are lowered as '{lowering}', ") as caught:
        build_engine(model, tmp_path / "m.engine", gpu="sm89")
    assert caught.value.hint == "export with --fft gemm (or conv)"
    assert not list(tmp_path.iterdir())


@needs_rtx
def test_an_unknown_operator_is_named_with_its_node(model, tmp_path):
    """The library's log says 'Plugin not found', which helps nobody."""

    def with_dft(proto):
        last = helper.make_node("Constant", [], ["last"], name="last", value_ints=[0, 0, -1, 1])
        real = helper.make_node("Reshape", ["lr", "last"], ["real"], name="real")
        strange = helper.make_node("DFT", ["real"], ["spectrum"], name="strange")
        mean = helper.make_node("ReduceMean", ["spectrum"], ["mean"], name="mean", keepdims=0)
        proto.graph.node[-1].output[0] = "before"  # what nothing needs is not built
        added = helper.make_node("Add", ["before", "mean"], ["sr"], name="added")
        proto.graph.node.extend([last, real, strange, mean, added])

    with pytest.raises(EngineError) as caught:
        build_engine(changed(model, with_dft), tmp_path / "m.engine", gpu="sm89")
    assert str(caught.value).endswith(
        "cannot be built for sm89: there is no operator DFT, which 'strange' needs"
    )


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "lowering", "options", "message", "hint"),
    [
        ("fp32", "gemm", {"gpu": "sm75"}, "FP32 GEMM is not supported", "--fft conv"),
        ("bf16", "conv", {"gpu": "sm75"}, "HW-specific datatypes", "--precision fp16"),
        ("fp16", "gemm", {"workspace_bytes": 1024}, "within workspace limit", "--workspace"),
    ],
)
def test_the_builders_own_words_come_with_a_hint(
    make_generator, make_model, tmp_path, monkeypatch, precision, lowering, options, message, hint
):
    """Whatever the table of requirements does not know, the builder says, without source lines."""
    monkeypatch.setattr(inputs, "require_buildable", lambda *arguments: None)
    model = in_precision(make_model(*make_generator(), lowering), precision)
    with pytest.raises(EngineError, match=message) as caught:
        build_engine(model, tmp_path / "m.engine", **({"gpu": "sm89"} | options))
    assert "/_src/" not in str(caught.value)
    assert ".cpp" not in str(caught.value)
    assert hint in caught.value.hint


def test_an_fp8_refusal_is_not_taken_for_bf16():
    """Both are 'HW-specific datatypes' to the builder."""
    said = "Cannot compile for target(s) sm86, because the model contains HW-specific datatypes: "
    assert "sm89" in builder_failure([f"{said}fp8_e4m3."]).hint
    assert "bf16" in builder_failure([f"{said}b16."]).hint
    assert "report it" in builder_failure([]).hint


@needs_rtx
def test_a_quantised_model_is_counted_by_what_it_computes_in(model):
    """The layer summary knows no list of types: int8 shows up as it is."""

    def quantise(proto):
        node = next(node for node in proto.graph.node if node.op_type == "Conv")
        scale = numpy_helper.from_array(np.float32(0.05), "scale")
        zero = numpy_helper.from_array(np.int8(0), "zero")
        proto.graph.initializer.extend([scale, zero])
        pair = [
            helper.make_node("QuantizeLinear", [node.input[0], "scale", "zero"], ["q8"], name="q"),
            helper.make_node("DequantizeLinear", ["q8", "scale", "zero"], ["dq8"], name="dq"),
        ]
        where = list(proto.graph.node).index(node)
        node.input[0] = "dq8"
        nodes = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend([*nodes[:where], *pair, *nodes[where:]])

    bound = bind(changed(model, quantise), MATRIX)
    resolved = resolve_inputs(bound, EngineOptions(gpu="sm89"))
    layers = compile_in_subprocess(bound, resolved).layers
    assert layers["QUANTIZE"] == {"INT8": 1}
    assert layers["DEQUANTIZE"] == {"FLOAT": 1}


@needs_rtx
def test_progress_rises_to_the_end(model, tmp_path):
    """A bar that falls back or stops at 83 % looks like a hang."""
    seen = []
    build_engine(model, tmp_path / "m.engine", gpu="sm89", on_progress=seen.append)
    done = [state.done for state in seen]
    assert done == sorted(set(done))
    assert done[-1] == seen[-1].total == 100
    assert len(done) > 10
    assert any("Optimizing" in state.stage for state in seen)


def test_nested_phases_make_one_share(capsys):
    """Half of the second of two steps is three quarters, whoever reports it."""
    progress = PhaseProgress()
    progress.started("all", None, 2)
    progress.stepped("all", 0)
    progress.started("inner", "all", 4)
    progress.stepped("inner", 1)
    progress.stepped("unheard of", 1)
    progress.finished("inner")
    progress.started("again", "all", 0)
    progress.finished("all")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["done"] for line in told] == [0, 50, 75, 100]


@needs_rtx
def test_nothing_is_replaced_unasked(model, tmp_path):
    """Neither the engine nor a sidecar that stands where one would go."""
    output = tmp_path / "m.engine"
    for taken in (output, sidecar_path(output)):
        taken.write_text("mine")
        with pytest.raises(OutputError) as caught:
            build_engine(model, output, gpu="sm89")
        assert str(caught.value) == f"{taken} exists"
        assert caught.value.hint == "replace it with --force"
        assert taken.read_text() == "mine"
        taken.unlink()
    output.write_text("old")
    assert build_engine(model, output, gpu="sm80", force=True).notes == (
        "TensorRT-RTX builds for sm80, but NVIDIA does not list such GPUs as supported: "
        "verify the model there",
    )
    load_engine(output)


# --- the builder's process ------------------------------------------------------------------------


def worker(monkeypatch, code):
    """Put another program in the place of the builder."""
    monkeypatch.setattr(build, "WORKER", (sys.executable, "-c", code))


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "the builder's process was ended by SIGSEGV",
            "please report it",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "the builder's process was ended by SIGKILL",
            "out of memory: build for fewer slices at once with --batch",
        ),
        (
            "import sys; print('libnvinfer: bad day', file=sys.stderr); sys.exit(3)",
            "the builder ended with status 3: libnvinfer: bad day",
            None,
        ),
        ("print('not JSON'); print('[1]')", "ended with status 0: it printed nothing", None),
    ],
)
def test_a_crash_of_the_builder_is_an_error_here(model, tmp_path, monkeypatch, code, message, hint):
    """A segmentation fault in the library must not end a service, or pass for a result."""
    worker(monkeypatch, code)
    bound = bind(model, MATRIX)
    with pytest.raises(EngineError) as caught:
        compile_in_subprocess(bound, INPUTS, on_progress=lambda state: None)
    assert str(caught.value).startswith(f"'{model.spec.name}' cannot be built for sm89: ")
    assert message in str(caught.value)
    assert hint is None or hint in caught.value.hint
    assert caught.value.exit_code == 3


def test_an_interruption_ends_the_builder_too(model, tmp_path, monkeypatch):
    """Ctrl-C must not leave a process that heats a GPU for an hour."""
    told = tmp_path / "pid"
    worker(
        monkeypatch,
        f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid()))\n"
        'print(\'{"done": 1, "stage": "x"}\', flush=True); time.sleep(600)',
    )

    def interrupt(state):
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        compile_in_subprocess(bind(model, MATRIX), INPUTS, on_progress=interrupt)
    assert time.monotonic() - start < 300  # of the 600 that the builder would have taken
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


@needs_rtx
def test_a_file_in_the_working_folder_is_not_imported(model, tmp_path, monkeypatch):
    """`python -m` would take `tensorrt_rtx.py` from wherever the user happens to stand."""
    (tmp_path / "tensorrt_rtx.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    bound = bind(model, MATRIX)
    compile_in_subprocess(bound, resolve_inputs(bound, EngineOptions(gpu="sm89")))


def test_a_damaged_model_file_never_reaches_the_builder(model_file, monkeypatch):
    """A fifth of the bytes overwritten, in one piece or all over; or a fifth cut off."""
    content = model_file.read_bytes()
    rng = np.random.default_rng(0)
    scattered = np.frombuffer(content, np.uint8).copy()
    where = rng.choice(len(content), len(content) // 5, replace=False)
    scattered[where] = rng.integers(0, 256, len(where))
    fifth = len(content) // 5
    for damaged in (
        scattered.tobytes(),
        content[: 2 * fifth] + bytes(fifth) + content[3 * fifth :],
        content[: 4 * fifth],
    ):
        with pytest.raises(InputError):
            parse_model(damaged, name="damaged.onnx")


@needs_rtx
def test_bytes_that_are_no_model_are_an_error_of_the_parser(model):
    """Should it be handed such a file all the same."""
    bound = bind(model, MATRIX)
    resolved = resolve_inputs(bound, EngineOptions(gpu="sm89"))
    trt = load_runtime("tensorrt-rtx")
    with pytest.raises(EngineError, match="the parser does not take the file: "):
        compile_engine(trt, resolved, bound.serialized()[:-1000])


# --- sidecars -------------------------------------------------------------------------------------


@pytest.fixture
def engine(model, tmp_path):
    """Write an engine that holds nothing, with its sidecar."""
    from kspacesr_rt.runtime.tensorrt.adapter import Compiled
    from kspacesr_rt.runtime.tensorrt.sidecar import describe, write_engine

    path = tmp_path / "m.engine"
    fused = tuple(
        FusedLayer(name=f"layer {n}", kind="gemm", type="Half", moved_bytes=1_500_000)
        for n in range(2)
    )
    compiled = Compiled(
        plan=b"plan" * 100, layers={"CONVOLUTION": {"INT8": 3, "HALF": 2}}, fused=fused
    )
    info = describe(INPUTS, bind(model, MATRIX).spec, compiled)
    write_engine(path, compiled.plan, info)
    return path


def test_a_sidecar_comes_back_as_it_was(engine):
    """Every field, types and all; text too."""
    info, plan = load_engine(engine)
    assert plan == b"plan" * 100
    assert EngineInfo.from_json(info.to_json(), origin="x") == info
    assert info.inputs == INPUTS
    assert re.search(r"for sm89 \(NVIDIA L4\), \d+\.\d kB\n", info.as_text())
    assert "3 CONVOLUTION INT8, 2 CONVOLUTION HALF" in info.as_text()
    assert "fused        2 layers (2 Half), 3 MB moved" in info.as_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 3}, "schema 3 is newer than 2"),
        ({"schema": 1, "fused": None}, "lacks fused"),
        ({"fused": [{"name": "a"}]}, "fused has {'name': 'a'}"),
        ({"schema": "1"}, "not the sidecar of an engine"),
        ({"batch": [1, 2]}, "batch is (1, 2)"),
        ({"tf32": "no"}, "tf32 is 'no'"),
        ({"size_bytes": 400.0}, "size_bytes, plan_sha256, created or version has the wrong type"),
        ({"layers": {"CONVOLUTION": 3}}, "layers is {'CONVOLUTION': 3}"),
        ({"precision": "fp16"}, "matrix or precision differs from the model specification's"),
        ({"matrix": [33, 40]}, "matrix or precision differs from the model specification's"),
        ({"model": "another"}, "model is unknown, or not what follows from the rest"),
        ({"key": "0" * 64}, "key is unknown, or not what follows from the rest"),
        ({"gpu": "sm86"}, "key is unknown, or not what follows from the rest"),
        ({"extra": 1}, "extra is unknown, or not what follows from the rest"),
        ({"spec": {"schema": 1}}, "spec: the specification lacks"),
        ({"spec": 3}, "spec: the model specification has no schema number"),
        ({"plan_sha256": None}, "lacks plan_sha256"),
    ],
)
def test_an_edited_sidecar_is_refused(engine, change, message):
    """By the field's name; None takes it out."""
    sidecar = sidecar_path(engine)
    values = json.loads(sidecar.read_text()) | change
    sidecar.write_text(
        json.dumps({k: v for k, v in values.items() if change.get(k, "kept") is not None})
    )
    with pytest.raises(ModelFileError) as caught:
        read_sidecar(engine)
    assert str(caught.value).startswith("m.engine.json: ")
    assert message in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "change",
    [
        {"workspace_bytes": 0},
        {"workspace_bytes": True},
        {"optimisation_level": 6},
        {"optimisation_level": -1},
        {"batch": (4, 2, 8)},
        {"batch": (0, 1, 8)},
        {"gpu": "sm89x"},
        {"gpu": ""},
        {"runtime_version": ""},
        {"onnx_sha256": "ab"},
        {"recipe": 0},
    ],
)
def test_what_no_build_has_is_refused_whatever_the_key(engine, change):
    """The key is a digest that an editor of the file may write anew; a level of 6 there is not."""
    sidecar = sidecar_path(engine)
    values = json.loads(sidecar.read_text())
    stored = {item.name: values[item.name] for item in dataclasses.fields(inputs.EngineInputs)}
    text = json.dumps(stored | change, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    sidecar.write_text(json.dumps(values | change | {"key": key}))
    with pytest.raises(ModelFileError, match=next(iter(change))):
        read_sidecar(engine)


@pytest.mark.parametrize("value", [None, {}, "x", 3, [None], [{}]])
def test_fused_layers_are_a_list(engine, value):
    """``null`` was 'NoneType' object is not iterable."""
    sidecar = sidecar_path(engine)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"fused": value}))
    with pytest.raises(ModelFileError, match="fused ") as caught:
        read_sidecar(engine)
    assert "NoneType" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"schema": 1}', b'{"schema": true}']
)
def test_what_is_no_sidecar_is_refused(engine, content):
    """Empty, half, something else."""
    sidecar_path(engine).write_bytes(content)
    with pytest.raises(ModelFileError, match=r"^m\.engine\.json: ") as caught:
        read_sidecar(engine)
    assert caught.value.hint == "build the engine again: kspacesr-rt build"


def test_an_engine_is_only_loaded_whole_and_with_its_own_sidecar(engine):
    """A truncated plan may crash the library that is handed it."""
    whole = engine.read_bytes()
    engine.write_bytes(whole[: len(whole) * 4 // 5])
    with pytest.raises(ModelFileError, match=r"^m\.engine: has 320 bytes, its sidecar says 400"):
        load_engine(engine)
    engine.write_bytes(bytes(80) + whole[80:])
    with pytest.raises(ModelFileError, match="is not the engine its sidecar describes"):
        load_engine(engine)
    engine.unlink()
    with pytest.raises(ModelFileError, match=r"^m\.engine: cannot be read: No such file"):
        load_engine(engine)
    sidecar_path(engine).unlink()
    with pytest.raises(ModelFileError, match="an engine needs its sidecar") as caught:
        load_engine(engine)
    assert "copy both files" in caught.value.hint


# --- TensorRT 10, 11 and RTX ----------------------------------------------------------------------


class Recorder:
    """Remember every call and assignment, in order."""

    def __init__(self, calls, returns=()):
        object.__setattr__(self, "calls", calls)
        object.__setattr__(self, "returns", dict(returns))

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            value = self.returns.get(name)
            return value(*arguments) if callable(value) else value

        return call

    def __setattr__(self, name, value):
        self.calls.append((name, value))


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


def fake_trt(name, version, calls, *, plan=b"plan", says=(), accepts_timing=True):
    """Stand in for a builder that records what it is told and gives `plan`."""

    class ILogger:
        pass

    ILogger.Severity = Severity
    layer = SimpleNamespace(
        num_outputs=1,
        type=SimpleNamespace(name="CONVOLUTION"),
        get_output=lambda index: SimpleNamespace(dtype=SimpleNamespace(name="FP8")),
    )
    network = SimpleNamespace(
        num_layers=2,
        get_layer=lambda index: layer,
        get_input=lambda index: SimpleNamespace(name="lr", shape=(-1, 1, 40, 33)),
    )
    cache = SimpleNamespace(serialize=lambda: b"measured")

    class Builder(Recorder):
        def __init__(self, log):
            def built(network, config):
                for severity, message in says:
                    log.log(severity, message)
                return plan

            config = Recorder(
                calls,
                {
                    "create_timing_cache": lambda old: cache if accepts_timing or not old else None,
                    "set_timing_cache": True,
                },
            )
            super().__init__(
                calls,
                {
                    "create_network": network,
                    "create_builder_config": config,
                    "create_optimization_profile": Recorder(calls),
                    "build_serialized_network": built,
                },
            )

    trt = SimpleNamespace(
        __name__=name,
        __version__=version,
        ILogger=ILogger,
        Builder=Builder,
        OnnxParser=lambda network, log: SimpleNamespace(parse=lambda content: True),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        BuilderFlag=SimpleNamespace(TF32="TF32", REQUIRE_USER_ALLOCATION="REQUIRE_USER_ALLOCATION"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="DETAILED"),
    )
    if name == "tensorrt_rtx":
        trt.ComputeCapability = SimpleNamespace(SM89="SM89")
    return trt


@pytest.mark.parametrize(
    ("name", "version", "flags"),
    [
        ("tensorrt", "10.16.1.11", 2),
        ("tensorrt", "11.0.0.1", 0),
        ("tensorrt", "11.4.0.106", 0),
        ("tensorrt_rtx", "1.7.1.116", 0),
    ],
)
def test_every_flavour_builds_typed_networks_without_tf32(name, version, flags):
    """TensorRT 10 must be told to keep the model's types; the others know nothing else."""
    calls = []
    compiled = compile_engine(fake_trt(name, version, calls), INPUTS, b"onnx")
    assert ("create_network", flags) in calls
    assert ("clear_flag", "TF32") in calls
    assert ("set_shape", "lr", (1, 1, 40, 33), (2, 1, 40, 33), (4, 1, 40, 33)) in calls
    assert compiled.plan == b"plan"
    assert compiled.layers == {"CONVOLUTION": {"FP8": 2}}
    told = [call[0] for call in calls]
    assert "builder_optimization_level" not in told
    assert "set_memory_pool_limit" not in told
    if name == "tensorrt_rtx":
        assert ("num_compute_capabilities", 1) in calls
        assert ("set_compute_capability", "SM89", 0) in calls
        assert ("set_flag", "REQUIRE_USER_ALLOCATION") in calls
        assert "create_timing_cache" not in told
        assert compiled.timing == b""
    else:
        assert "set_compute_capability" not in told
        assert ("create_timing_cache", b"") in calls
        assert compiled.timing == b"measured"


def test_options_reach_the_builder():
    """Each of them, and TF32 only where it was resolved to be allowed."""
    calls = []
    asked = dataclasses.replace(INPUTS, tf32=True, workspace_bytes=4096, optimisation_level=5)
    compile_engine(fake_trt("tensorrt", "11.4", calls), asked, b"onnx")
    assert ("set_flag", "TF32") in calls
    assert ("clear_flag", "TF32") not in calls
    assert ("set_memory_pool_limit", "WORKSPACE", 4096) in calls
    assert ("builder_optimization_level", 5) in calls


def test_measurements_of_another_gpu_are_not_used():
    """TensorRT refuses such a timing cache; the build starts a new one instead of failing."""
    calls = []
    compile_engine(fake_trt("tensorrt", "10.16", calls), INPUTS, b"onnx", timing=b"old")
    assert [call[1] for call in calls if call[0] == "create_timing_cache"] == [b"old"]
    calls.clear()
    trt = fake_trt("tensorrt", "10.16", calls, accepts_timing=False)
    compiled = compile_engine(trt, INPUTS, b"onnx", timing=b"other")
    assert [call[1] for call in calls if call[0] == "create_timing_cache"] == [b"other", b""]
    assert compiled.timing == b"measured"


def test_only_errors_are_quoted_from_the_builders_log():
    """Thousands of lines of detail are not an explanation."""
    says = [
        (Severity.WARNING, "node exists"),
        (Severity.ERROR, "Out of luck. In f at /_src/x.cpp:1"),
    ]
    trt = fake_trt("tensorrt", "11.4", [], plan=None, says=says)
    with pytest.raises(EngineError) as caught:
        compile_engine(trt, INPUTS, b"onnx")
    assert str(caught.value) == "Out of luck"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ImportError('libnvinfer.so.11: cannot open')", "is installed but does not load: "),
        ("__version__ = '10.3.0'", "tensorrt 10.3.0 is older than 10.13, the oldest"),
        (None, "'tensorrt' needs the package 'tensorrt', which is not installed"),
    ],
)
def test_a_runtime_that_cannot_be_used_is_named(monkeypatch, tmp_path, code, message):
    """Missing, broken and too old are told apart."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    if code is not None:
        monkeypatch.delitem(sys.modules, "tensorrt")
        (tmp_path / "tensorrt.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailableError) as caught:
        load_runtime("tensorrt")
    assert message in str(caught.value)
    assert caught.value.hint == "pip install 'kspacesr-rt[tensorrt]'"


def test_the_commands_build_keep_and_remove_engines(tmp_path, monkeypatch):
    """As a user types them, on a machine without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="the package 'tensorrt_rtx' is not installed")
    monkeypatch.setenv("KSPACESR_RT_CACHE", str(tmp_path / "cache"))

    def run(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    engine = tmp_path / "x2.engine"
    text = run("build", "x2-fast", "-o", engine, "--gpu", "sm89", "--matrix", 64, 48)
    assert "x2-fast: engine of tensorrt-rtx" in text
    assert "64 x 48" in text
    run("cache", "add", engine)
    assert "x2-fast fp32 64 x 48 for sm89" in run("cache", "ls")
    assert "x2-fast" in run("cache", "prune", "--all")
    assert "x2-fast" not in run("cache", "ls")
    refused = CliRunner().invoke(app, ["build", "x2-fast", "-o", str(engine), "--gpu", "sm90"])
    assert refused.exit_code != 0
