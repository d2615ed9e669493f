"""GPUs by name: what runs there, what is chosen, and an estimate that says it is one."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.conversion.lowering_choice import choose_lowering
from kspacesr_rt.errors import EngineError, InputError
from kspacesr_rt.graph.opset import at_least_opset
from kspacesr_rt.graph.precision import narrowed, opset_of
from kspacesr_rt.graph.relowering import relowered
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.runtime.gpu_capabilities import ON_GPU, RTX_TARGETS, backends_of
from kspacesr_rt.runtime.gpu_targets import LAUNCH_S, describe_targets, targets_text
from kspacesr_rt.runtime.tensorrt.targets import resolve_target
from kspacesr_rt.system.gpu_models import CAPABILITIES, GPU_MODELS, capability_of


@pytest.mark.parametrize(
    ("text", "sm"),
    [
        ("T4", 75),
        ("nvidia l4", 89),
        ("NVIDIA-GeForce-RTX-4090", 89),
        ("rtx4090", 89),
        (" H100 ", 90),
        ("jetson_orin", 87),
        ("Jetson AGX Orin", 87),
        ("SM120", 120),
        ("sm_89", 89),
        ("8.9", 89),
        ("12.0", 120),
        ("RTX 4080 SUPER", 89),
        ("GeForce RTX 2080 Ti", 75),
        ("RTX A6000", 86),
        ("RTX 6000 Ada", 89),
        ("DGX Spark", 121),
        ("GB300", 103),
    ],
)
def test_a_name_is_a_capability(text, sm):
    """People know what their GPU is called, not what its compute capability is."""
    assert capability_of(text) == sm


WRONG = ["banana", "", "T40", "sm", "sm70", "sm999", "4090", "sm89,sm86", "L4;rm", "RTX"]


@pytest.mark.parametrize("text", WRONG)
def test_a_name_that_nobody_knows_is_refused_everywhere(text):
    """By `export` too, which took any: what is made for no GPU is made for the wrong one."""
    for ask in (
        capability_of,
        lambda name: resolve_target(name, "tensorrt-rtx"),
        lambda name: choose_lowering("auto", "tensorrt-rtx", name),
        lambda name: choose_lowering("gemm", "ort-cuda", name),
        lambda name: describe_targets([name], load_model(resolve_model(None, upscale=2)), (32, 32)),
    ):
        with pytest.raises(InputError, match="no GPU target is called") as caught:
            ask(text)
        assert "kspacesr-rt targets" in caught.value.hint
    for command in ("build", "export", "convert"):
        words = [command, "x2-fast", "-o", "x", "--gpu", text]
        assert CliRunner().invoke(app, words).exit_code == 2


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("H10", "is it H100"),
        ("sm999", "is it sm90 or sm89"),
        ("RTX 409", "is it RTX 4090"),
        ("NVIDIA H100 80GB HBM3", "is it H100? "),
        ("A100-SXM4-80GB", "is it A100? "),
        ("Jetson Orim", "is it Jetson Orin"),
    ],
)
def test_what_is_near_is_offered(text, near):
    """A typo, or a driver's name of a variant, is answered with what could have been meant."""
    with pytest.raises(InputError) as caught:
        capability_of(text)
    assert caught.value.hint.startswith(near)
    assert "one of: sm75, " in caught.value.hint


@pytest.mark.parametrize(
    "text", ["V100", "sm70", "sm_61", "5.2", "GTX 1080 Ti", "Tesla P100", "K80"]
)
def test_a_gpu_that_is_too_old_is_said_to_be(text):
    """The nearest name would be a wrong answer."""
    with pytest.raises(InputError) as caught:
        capability_of(text)
    assert "begin with sm75 (T4): on older GPUs take ort-webgpu" in caught.value.hint
    assert "is it " not in caught.value.hint


def test_names_decide_what_is_built():
    """A T4 has no fp32 product in TensorRT-RTX: the name must do what its number does."""
    assert resolve_target("T4", "tensorrt-rtx").sm == 75
    assert choose_lowering("auto", "tensorrt-rtx", "T4").lowering == "conv"
    assert choose_lowering("auto", "tensorrt-rtx", "RTX 4090").lowering == "gemm"
    assert choose_lowering("auto", "ort-cuda", "T4").lowering == "gemm"
    with pytest.raises(EngineError, match="does not support sm90"):
        resolve_target("H100", "tensorrt-rtx")
    with pytest.raises(EngineError, match="does not support sm87") as caught:
        resolve_target("Jetson Orin", "tensorrt-rtx")
    assert "JetPack 6 has TensorRT 10.3" in caught.value.hint


def test_every_gpu_says_what_runs_on_it():
    """And why the others do not, in a few words."""
    for gpu in GPU_MODELS.values():
        backends = backends_of(gpu)
        assert tuple(backends) == ON_GPU
        assert (backends["tensorrt-rtx"] == "") == (gpu.sm in RTX_TARGETS)
        assert gpu.sm in CAPABILITIES
    assert not any(reason == "" for reason in backends_of(GPU_MODELS["Jetson Orin"]).values())
    assert backends_of(GPU_MODELS["B200"])["ort-cuda"] == "onnxruntime-gpu has no kernels for sm100"


def test_the_estimate_is_the_roofline():
    """By hand: no layer is faster than its memory or its arithmetic, nor is their sum."""
    model = load_model(resolve_model("x2-fast", upscale=None))
    l4, h100 = describe_targets(["L4", "H100"], model, (256, 256))
    for one in (l4, h100):
        wide, narrow = one.estimates
        assert narrow.seconds < wide.seconds
        assert 0.0 < narrow.fft_share < 0.5
        # 17.5 GFLOP of convolutions and 1.1 of transforms, at the data sheet's rate.
        assert wide.seconds > 18.6e9 / (one.gpu.fp32_tflop_s * 1e12)
    # Bound by memory: as much faster as its memory is, but for the launches.
    ratio = l4.estimates[1].seconds / h100.estimates[1].seconds
    assert 4.0 < ratio < h100.gpu.bandwidth_gb_s / l4.gpu.bandwidth_gb_s
    larger = describe_targets(["L4"], model, (512, 512))[0].estimates[1].seconds
    assert 3.5 < larger / l4.estimates[1].seconds < 5.0


def test_an_eighth_at_most_goes_to_fft_layers():
    """On every GPU that is known by name, launches and all; no arithmetic undercuts the floor."""
    model = load_model(resolve_model("x2-fast", upscale=None))
    for one in describe_targets([], model, (256, 256)):
        assert one.estimates[1].fft_share <= 0.12, one.gpu.name
        for estimate in one.estimates:
            assert 0.0 < estimate.fft_share_floor <= estimate.fft_share
    assert {"H100", "H200", "B200"} <= set(GPU_MODELS)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_file_of_16_bits_is_estimated_as_it_is(model_in, precision):
    """What `convert` made for a GPU; in fp32 it is no longer there."""
    (l4,) = describe_targets(["L4"], model_in(precision), (64, 64))
    (estimate,) = l4.estimates
    assert estimate.precision == precision
    if precision == "fp16":
        (of_wide,) = describe_targets(["L4"], model_in("fp32"), (64, 64))
        assert estimate == of_wide.estimates[1]


def test_of_8_bits_nothing_is_estimated(model_in):
    """Their graph has rounding between layers, which is none of the model's own layers."""
    model = model_in("fp32")
    of_8 = dataclasses.replace(model, spec=dataclasses.replace(model.spec, precision="int8"))
    with pytest.raises(InputError, match="in int8: estimates are of graphs in fp32 or 16 bits"):
        describe_targets(["L4"], of_8, (64, 64))


@pytest.fixture(scope="module")
def model_in():
    model = load_model(resolve_model("x2-fast", upscale=None))

    def made(precision):
        if precision == "fp32":
            return model
        proto = narrowed(at_least_opset(model.proto, precision), precision)
        spec = dataclasses.replace(model.spec, precision=precision, opset=opset_of(proto))
        return dataclasses.replace(model, proto=proto, spec=spec)

    return made


def test_a_backend_is_named_for_a_model_that_it_takes(model_in):
    """`build` and `verify` refuse it in the same words."""
    of_kspace = load_model(resolve_model("x2-complex", upscale=None))
    (l4,) = describe_targets(["L4"], of_kspace, (64, 64))
    assert l4.backend == "ort-tensorrt"
    words = "'x2-complex' takes k-space, and engines are built for images"
    assert l4.backends["tensorrt"] == l4.backends["tensorrt-rtx"] == words
    fast = model_in("fp32")
    spec = dataclasses.replace(fast.spec, lowering="dynamic")
    dynamic = dataclasses.replace(fast, proto=relowered(fast.proto, spec, "dynamic"), spec=spec)
    (h100,) = describe_targets(["H100"], dynamic, (64, 64))
    assert (h100.backend, h100.lowering) == (None, "dynamic")
    assert "lowered as 'dynamic'" in h100.backends["ort-cuda"]
    (t4,) = describe_targets(["T4"], model_in("bf16"), (64, 64))
    assert (
        t4.backends["tensorrt"] == "'x2-fast' cannot run on T4 (sm75): tensorrt has no bf16 there"
    )


def test_a_table_of_a_16_bit_file_has_no_figures_of_another(model_in):
    choices = describe_targets(["L4", "H100"], model_in("bf16"), (64, 64))
    head, first, *_ = targets_text(choices, "narrow", (64, 64)).splitlines()
    assert "fp32 us  bf16 us" in head
    assert first.split()[5] == "-"


def launches_alone(gpu):
    """Return a GPU of the same kind on which nothing takes time but launches."""
    endless = dict.fromkeys(("bandwidth_gb_s", "fp32_tflop_s", "fp16_tflop_s"), 1000000000000.0)
    return dataclasses.replace(gpu, **endless)


@pytest.mark.parametrize(
    ("name", "matrix", "fft", "rest"),
    [
        ("x2-fast", (256, 256), 6, 47),
        ("x2-fast", (255, 252), 6, 47),
        ("x4-fast", (256, 256), 7, 41),
    ],
)
def test_launches_are_those_of_the_graph(monkeypatch, name, matrix, fft, rest):
    """Two products a layer; of x4 one more, which lays the LR image out. An eighth of all at x2."""
    model = load_model(resolve_model(name, upscale=None))
    monkeypatch.setitem(GPU_MODELS, "L40S", launches_alone(GPU_MODELS["L40S"]))
    (one,) = describe_targets(["L40S"], model, matrix)  # which takes no TF32
    estimate = one.estimates[1]
    assert estimate.bound == "launches"
    assert estimate.seconds == pytest.approx((fft + rest) * LAUNCH_S, rel=1e-3)
    assert estimate.fft_share == pytest.approx(fft / (fft + rest), rel=1e-3)
    assert (estimate.fft_share <= 0.12) == (name == "x2-fast")


@pytest.mark.parametrize(
    ("name", "gpus"), [("x2-fast", ["A100", "B200"]), ("x4-fast", ["A100", "H100", "H200", "B200"])]
)
def test_where_tf32_pays_it_is_counted(monkeypatch, name, gpus):
    """As `build` takes it: faster than fp32 there, with launches more."""
    model = load_model(resolve_model(name, upscale=None))
    taken = describe_targets(gpus, model, (256, 256))
    monkeypatch.setattr("kspacesr_rt.runtime.gpu_targets.tf32_pays", lambda sm, upscale: False)
    for with_it, without in zip(taken, describe_targets(gpus, model, (256, 256)), strict=True):
        assert with_it.estimates[1].seconds < without.estimates[1].seconds
        assert with_it.estimates[1].fft_share < without.estimates[1].fft_share
        assert with_it.estimates[0] == without.estimates[0]


def test_the_command_says_that_it_estimates():
    """A figure that was not measured must not be taken for one that was."""
    shown = CliRunner().invoke(app, ["targets", "L4", "T4", "--matrix", "128", "128"])
    assert shown.exit_code == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:3]] == ["L4", "T4"]
    assert "Times are estimates, not measured: x2-fast, a slice of 128 x 128" in shown.stdout
    assert "NVIDIA driver 580 or newer" in shown.stdout
    found = CliRunner().invoke(app, ["targets", "--json"])
    answer = json.loads(found.stdout)
    assert answer["estimated"] is True
    assert [one["name"] for one in answer["targets"]] == list(GPU_MODELS)
    refused = CliRunner().invoke(app, ["targets", "sm89", "--json"])
    assert refused.exit_code == 2
    assert refused.stdout == ""
    (line,) = (one for one in refused.stderr.splitlines() if one.startswith("{"))
    assert "L40S" in json.loads(line)["error"]["hint"]
