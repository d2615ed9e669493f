"""Lower precision is in the graph, in the CNN and nowhere else, and has to prove itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from onnx import TensorProto, helper, shape_inference
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.conversion.parity import TIER_OF, TIERS
from kspacesr_rt.errors import BackendUnavailableError, ExportError
from kspacesr_rt.export.exporter import export_model
from kspacesr_rt.export.lowering import lower
from kspacesr_rt.graph.precision import NARROW_TYPES, narrowed
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model
from kspacesr_rt.model.spec import OP_DOMAIN
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions, open_backend
from kspacesr_rt.runtime.self_test import verify_model
from kspacesr_rt.train.checkpoint import save_checkpoint

ARCHITECTURES = ("seed-kspace", "seed-image", "dc-residual")
RUNS_ON = {"fp16": "ort-cpu", "bf16": "openvino"}
"""ONNX Runtime has no CPU kernel for bf16 convolutions."""


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value, as ONNX infers it."""
    inferred = shape_inference.infer_shapes(
        onnx.inliner.inline_local_functions(proto), strict_mode=True
    ).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {one.name: one.type.tensor_type.elem_type for one in values}
    return types | {one.name: one.data_type for one in inferred.initializer}


@pytest.mark.parametrize("precision", NARROW_TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_the_cnn_is_narrow(make_generator, architecture, precision):
    """Every convolution is; transforms, scaling, consistency, tanh and magnitude are not."""
    generator, spec = make_generator(architecture, 2)
    proto = narrowed(lower(generator, spec), precision)
    narrow = NARROW_TYPES[precision]
    inferred = types_of(proto)
    seen = set()
    for node in proto.graph.node:
        floats = [
            inferred[name]
            for name in (*node.input, *node.output)
            if inferred.get(name) in (TensorProto.FLOAT, narrow)
        ]
        seen.add(node.op_type)
        if node.op_type in ("Conv", "LeakyRelu", "DepthToSpace"):
            assert set(floats) == {narrow}, node.name
        elif node.op_type != "Cast" and not (node.op_type == "Add" and narrow in floats):
            assert set(floats) <= {TensorProto.FLOAT}, node.name
    assert "Conv" in seen
    wide = {node.op_type for node in proto.graph.node if node.domain == OP_DOMAIN}
    wide |= {"Div", "Mul", "Sub", "Max", "ReduceMax", "ReduceL2", "Tanh"} & seen
    assert wide
    assert [inferred[one.name] for one in (*proto.graph.input, *proto.graph.output)] == [
        TensorProto.FLOAT,
        TensorProto.FLOAT,
    ]


def test_the_residual_stream_is_narrow_between_blocks(make_generator):
    """A cast in front of every convolution would cost what the narrow type saves."""
    generator, spec = make_generator("dc-residual", 2, blocks=4, cascades=2)
    proto = narrowed(lower(generator, spec), "fp16")
    casts = [node.name for node in proto.graph.node if node.op_type == "Cast"]
    assert len(casts) == 2 * 2, casts  # into and out of the CNN, once a cascade


@pytest.mark.parametrize("precision", NARROW_TYPES)
def test_a_narrow_model_computes_the_same_to_its_digits(make_generator, make_model, precision):
    """In any unit: a 12-bit image's k-space overflows fp16, so none of it may pass through."""
    backend = RUNS_ON[precision]
    if (reason := BACKENDS[backend].why_not()) is not None:
        pytest.skip(reason)
    generator, spec = make_generator("dc-residual", 2, width=16)
    model = make_model(generator, spec)
    spec = dataclasses.replace(model.spec, precision=precision)
    model = dataclasses.replace(model, spec=spec, proto=narrowed(model.proto, precision))
    lr = brain_phantom((40, 33)).astype(np.float32)[None, None]
    batch = np.concatenate([lr, 5e3 * lr, 1e-3 * lr])
    with torch.inference_mode():
        expected = generator(torch.from_numpy(batch)).numpy()
    with open_backend(backend, bind(model, (40, 33)), BackendOptions(threads=1)) as opened:
        result = opened.run(batch)
    for ours, theirs in zip(result, expected, strict=True):
        error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
        assert 1e-7 < error < {"fp16": 2e-3, "bf16": 2e-2}[precision]


def test_fp32_is_left_as_it_is(make_generator):
    """Narrowing to fp32 is no operation."""
    proto = lower(*make_generator())
    assert narrowed(proto, "fp32").SerializeToString() == proto.SerializeToString()


def test_the_lowered_model_is_not_changed(make_generator):
    """A caller may narrow one graph to several types."""
    proto = lower(*make_generator())
    before = proto.SerializeToString()
    narrowed(proto, "fp16")
    narrowed(proto, "bf16")
    assert proto.SerializeToString() == before


def test_a_weight_that_does_not_fit_is_named(make_generator):
    """Infinity in a weight would be a NaN in every slice."""
    generator, spec = make_generator()
    with torch.no_grad():
        generator.cascades[0].head.weight[0, 0, 0, 0] = 1e5
    proto = lower(generator, spec)
    with pytest.raises(ExportError, match=r"cascades\.0\.head\.weight.* reaches 1e\+05, which"):
        narrowed(proto, "fp16")
    narrowed(proto, "bf16")


def test_an_unknown_precision_is_refused(make_generator):
    """int8 and fp8 need calibration; asking for them here must not give another type."""
    with pytest.raises(ExportError, match="precision 'int8' is not one of fp32, fp16, bf16"):
        narrowed(lower(*make_generator()), "int8")


@pytest.fixture(scope="module")
def checkpoint(make_generator, tmp_path_factory):
    """Make a generator close to zero-filling, as trained ones are."""
    generator, spec = make_generator("dc-residual", 2, width=16, blocks=2, cascades=2)
    with torch.no_grad():
        for cascade in generator.cascades:
            cascade.tail.weight.mul_(0.05)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(path, spec, generator.state_dict())
    return path


@pytest.mark.parametrize("precision", NARROW_TYPES)
def test_export_proves_a_narrow_model_against_its_own_tier(checkpoint, tmp_path, precision):
    """The gate runs on a backend that has the kernels, and the file says what it is."""
    backend = RUNS_ON[precision]
    if (reason := BACKENDS[backend].why_not()) is not None:
        pytest.skip(reason)
    output = tmp_path / "model.onnx"
    exported = export_model(checkpoint, output, precision=precision, backend=backend)
    assert exported.report.tier == TIER_OF[precision] == "fast"
    model = load_model(output)
    assert model.spec.precision == precision
    assert model.spec.opset == {"fp16": 20, "bf16": 22}[precision]
    assert verify_model(model, backend, BackendOptions(threads=1)).passed
    assert any(one.data_type == NARROW_TYPES[precision] for one in model.proto.graph.initializer)


def test_a_backend_without_the_kernels_says_so(checkpoint, tmp_path):
    """ONNX Runtime's own exception names a node and no way out."""
    with pytest.raises(BackendUnavailableError, match=r"no bf16 kernels for .* on a CPU") as caught:
        export_model(checkpoint, tmp_path / "model.onnx", precision="bf16", backend="ort-cpu")
    assert "openvino" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_the_command_takes_a_precision(checkpoint, tmp_path):
    """As a user types it."""
    output = tmp_path / "half.onnx"
    result = CliRunner().invoke(
        app, ["export", str(checkpoint), "-o", str(output), "--precision", "fp16"]
    )
    assert result.exit_code == 0, result.stderr
    assert "tier fast" in result.stdout
    assert load_model(output).spec.precision == "fp16"


def test_tiers_tighten_with_precision():
    """What 16 bits may lose, fp32 may not."""
    exact, fast = TIERS["exact"], TIERS["fast"]
    assert exact.psnr_between_db > fast.psnr_between_db
    for name in ("centre_error", "rim_error", "delta_psnr_db", "delta_ssim", "delta_mae_share"):
        assert getattr(exact, name) < getattr(fast, name)
    assert helper.tensor_dtype_to_np_dtype(NARROW_TYPES["fp16"]) == np.float16
