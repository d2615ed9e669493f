"""`Abs` of what does not follow from the image is computed alike by every runtime."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from kspacesr_rt.graph.constant_moduli import write_constant_moduli

N_COLUMNS = 9


def model():
    """Return ``|x - 4| * |place - 4|``, whose places are counted from the shape of x."""
    nodes = [
        helper.make_node("Shape", ["x"], ["length"]),
        helper.make_node("Squeeze", ["length"], ["n"]),
        helper.make_node("Range", ["zero", "n", "one"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["place"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["place", "centre"], ["from_centre"]),
        helper.make_node("Abs", ["from_centre"], ["distance"]),
        helper.make_node("Sub", ["x", "centre"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["modulus"]),
        helper.make_node("Mul", ["modulus", "distance"], ["y"]),
    ]
    weights = [
        helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        helper.make_tensor("one", TensorProto.INT64, [], [1]),
        helper.make_tensor("centre", TensorProto.FLOAT, [], [4.0]),
    ]
    shape = [N_COLUMNS]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph(nodes, "moduli", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_modulus_of_samples_stays_as_it_is():
    made = model()
    write_constant_moduli(made.graph)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("Abs") == 1
    [kept] = [node for node in made.graph.node if node.op_type == "Abs"]
    assert list(kept.output) == ["modulus"]
    assert kinds[5:7] == ["Neg", "Max"]


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_distances_from_a_centre_are_positive_on_any_runtime(library):
    runtime = pytest.importorskip(library)
    made = model()
    write_constant_moduli(made.graph)
    x = np.linspace(-3, 9, N_COLUMNS, dtype=np.float32)
    if library == "onnxruntime":
        session = runtime.InferenceSession(made.SerializeToString())
        [found] = session.run(None, {"x": x})
    else:
        core = runtime.Core()
        found = core.compile_model(core.read_model(made.SerializeToString()), "CPU")(x)[0]
    expected = np.abs(x - 4) * np.abs(np.arange(N_COLUMNS) - 4)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
