"""OpenVINO: types come from the model, FFT layers stay in fp32, and what ran is read back."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.quality.result_checks import measure_slice
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions, open_backend
from kspacesr_rt.system import cpu

MATRIX = (42, 32)
KEPT = 1e-5
"""Largest change of a measured sample, over the largest of them, that fp32 FFT layers explain."""
if (reason := BACKENDS["openvino"].why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

from kspacesr_rt.runtime import openvino_cpu  # noqa: E402 - only where OpenVINO is installed


@pytest.fixture(scope="module")
def shipped():
    return load_model(shipped_models()["x2-fast"])


def batch_of(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((n, 1, *MATRIX)) * 10.0 ** rng.uniform(-2, 4, (n, 1, 1, 1))).astype(
        np.float32
    )


def test_an_fp32_model_runs_in_fp32_and_keeps_what_was_measured(shipped):
    """Even on a CPU with bf16 units, which OpenVINO would use unasked."""
    batch = batch_of(2)
    with open_backend("openvino", bind(shipped, MATRIX), BackendOptions(threads=1)) as backend:
        result = backend.run(batch)
        executed = backend.executed
        assert backend.notes == ()
    assert executed["Convolution"].keys() == {"f32"}
    assert {kind for kind in openvino_cpu.MATRIX_PRODUCTS if kind in executed}
    for one, source in zip(result[:, 0], batch[:, 0], strict=True):
        assert measure_slice(one, source).measured_residual < KEPT


def test_the_bf16_hint_would_destroy_measured_samples_and_is_refused(shipped, monkeypatch):
    """The reason for the read-back: the hint lowers FFT layers, and the guard says so."""
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16 units")
    real = openvino.Core.compile_model

    def hinted(self, network, device, settings):
        wanted = {**settings, "INFERENCE_PRECISION_HINT": openvino.Type.bf16}
        compiled = real(self, network, device, wanted)
        executed = openvino_cpu.executed_types(compiled)
        assert executed["FullyConnected"].keys() == {"bf16"}
        with pytest.raises(BackendUnavailableError, match="would compute FFT layers in"):
            openvino_cpu.require_fp32_products(executed)
        return compiled

    monkeypatch.setattr(openvino.Core, "compile_model", hinted)
    with pytest.raises(BackendUnavailableError, match="asked OpenVINO for fp32, it came up with"):
        open_backend("openvino", bind(shipped, MATRIX), BackendOptions(threads=1))


def test_every_request_is_used_in_one_thread_before_any_other_may(shipped, monkeypatch):
    """Two threads that make a process's first access to ``tensor.data`` wait for ever."""
    touched = []

    class Tensor:
        def __init__(self, name, tensor):
            self._name, self._tensor = name, tensor

        @property
        def data(self):
            touched.append((self._name, threading.current_thread()))
            return self._tensor.data

    class Request:
        def __init__(self, number, request):
            self._number, self._request = number, request

        def get_input_tensor(self, place):
            return Tensor((self._number, "in"), self._request.get_input_tensor(place))

        def get_output_tensor(self, place):
            return Tensor((self._number, "out"), self._request.get_output_tensor(place))

    class Compiled:
        def __init__(self, compiled):
            self._compiled, self._numbers = compiled, itertools.count()

        def create_infer_request(self):
            return Request(next(self._numbers), self._compiled.create_infer_request())

        def get_runtime_model(self):
            return self._compiled.get_runtime_model()

    real = openvino_cpu.compile_network
    monkeypatch.setattr(openvino_cpu, "compile_network", lambda *given: Compiled(real(*given)))
    with open_backend("openvino", bind(shipped, MATRIX), BackendOptions(threads=2, streams=2)):
        here = threading.current_thread()
        wanted = [((number, side), here) for number in range(2) for side in ("in", "out")]
        assert touched == wanted


def test_a_narrow_model_that_gains_nothing_is_told():
    """A bf16 file on a CPU without bf16 units is right, and no faster."""
    notes = openvino_cpu.type_notes("bf16", {"Convolution": {"f32": 3}})
    assert notes == ("OpenVINO runs this bf16 model's convolutions in f32 on this CPU",)
    assert openvino_cpu.type_notes("fp32", {"Convolution": {"f32": 3}}) == ()
    assert openvino_cpu.type_notes("int8", {"Convolution": {"i8": 1, "f32": 2}}) == ()


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        (["fpu avx2 fma"], True),
        (["fpu avx2 avx512f avx512bw"], True),
        (["fpu avx2 avx512f avx512_vnni"], False),
        (["fpu avx2 avx_vnni"], False),
        (["fp asimd bf16"], False),
        ([], False),
    ],
)
def test_sums_that_saturate_are_told(monkeypatch, flags, saturates):
    """Only where it is known: AVX2 adds pairs of products in 16 bits, VNNI in 32."""
    monkeypatch.setattr(cpu, "cpuinfo", lambda field: flags if field == "flags" else [])
    assert cpu.saturates_int8() is saturates
    assert bool(openvino_cpu.saturation_notes("int8")) is saturates
    assert openvino_cpu.saturation_notes("fp32") == ()


def test_a_quantised_convolution_runs_in_8_bits():
    """What `export --precision int8` writes is taken as it is: a QDQ graph."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 127, (8, 8, 3, 3)).astype(np.int8)
    constants = {
        "scale": np.float32(0.02),
        "zero": np.int8(0),
        "weights": weights,
        "weight_scale": np.float32(0.01),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weights", "weight_scale", "zero"], ["w"]),
        helper.make_node("Conv", ["d", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 16, 16]) for name in "xy"
    ]
    tensors = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "qdq", values[:1], values[1:], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    compiled = openvino_cpu.compile_network(proto, BackendOptions(threads=1))
    executed = openvino_cpu.executed_types(compiled)
    assert executed["Convolution"].keys() <= {"i8", "u8"}
