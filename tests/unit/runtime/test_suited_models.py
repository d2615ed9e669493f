"""What a runtime does not take is refused when a file is made for it, not when somebody runs it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import get_args

import pytest
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.conversion.convert import convert_model
from kspacesr_rt.conversion.lowering_choice import GEMM_REASONS, choose_lowering
from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.model.spec import Lowering, Precision
from kspacesr_rt.runtime.backends import BACKENDS, open_backend
from kspacesr_rt.runtime.gpu_capabilities import backends_of
from kspacesr_rt.runtime.selection import choose_backend
from kspacesr_rt.runtime.suited_models import (
    CPU_NODES_VARIABLE,
    PlannedModel,
    require_suited,
    require_suited_gpu,
)
from kspacesr_rt.system.gpu_models import GPU_MODELS

ENGINES = {"tensorrt", "tensorrt-rtx", "ort-tensorrt"}
REFUSED = {
    *itertools.product(("ort-cpu", "ort-cuda", "ort-webgpu"), ["bf16"]),
    *itertools.product(["ort-webgpu"], ["int8", "fp8"]),
    *itertools.product(("ort-cuda", "ort-webgpu", *ENGINES), ["dft", "dynamic"]),
    ("openvino", "dft"),
}
"""Runtime and what it was seen to refuse, or to compute wrongly or on the CPU: on the real
onnxruntime-gpu, onnxruntime-webgpu, OpenVINO and TensorRT-RTX."""


def planned(precision="fp32", lowering="gemm", **more):
    return PlannedModel(name="mine", precision=precision, lowering=lowering, **more)


def is_refused(runtime, model):
    try:
        require_suited(runtime, model)
    except BackendUnavailableError as exc:
        return bool(exc.hint) and ("'mine'" in str(exc) or runtime == "openvino")
    return False


@pytest.mark.parametrize("runtime", GEMM_REASONS)
def test_every_pair_is_taken_or_refused_as_was_seen(runtime):
    """A precision and a lowering are refused for themselves, whatever the other is."""
    for precision, lowering in itertools.product(get_args(Precision), get_args(Lowering)):
        refused = not REFUSED.isdisjoint({(runtime, precision), (runtime, lowering)})
        assert is_refused(runtime, planned(precision, lowering)) == refused, (precision, lowering)


def test_eight_bits_on_webgpu_may_be_allowed(monkeypatch):
    """Who lets nodes run on the CPU gets what was asked for."""
    monkeypatch.setenv(CPU_NODES_VARIABLE, "1")
    assert not is_refused("ort-webgpu", planned("int8"))
    assert is_refused("ort-webgpu", planned("bf16"))


@pytest.mark.parametrize("runtime", GEMM_REASONS)
def test_engines_alone_take_no_kspace(runtime):
    """`build` says so, too; ONNX Runtime and OpenVINO give the known answer of x2-complex."""
    assert is_refused(runtime, planned(input="kspace")) == (runtime in ENGINES - {"ort-tensorrt"})


def test_a_plugin_takes_what_it_takes():
    """Only it can know."""
    require_suited("somebody-elses", planned("bf16", "dft"))


@pytest.mark.parametrize(
    ("runtime", "gpu", "model", "said"),
    [
        ("tensorrt-rtx", "T4", planned(), "no fp32 matrix products"),
        ("tensorrt", "T4", planned("bf16"), "no bf16"),
        ("ort-tensorrt", "sm75", planned("bf16"), "no bf16"),
        ("tensorrt-rtx", "A10", planned("fp8"), "no fp8"),
        ("tensorrt", "A100", planned("fp8"), "no fp8"),
        ("tensorrt-rtx", "H100", planned(), "builds nothing for sm90"),
        ("tensorrt-rtx", "B200", planned(), "builds nothing for sm100"),
        ("ort-cuda", "B200", planned(), "no kernels for sm100"),
        ("ort-cuda", "sm103", planned(), "no kernels for sm103"),
        ("tensorrt", "Jetson Orin", planned(), "10.13 is needed"),
        ("tensorrt", "sm87", planned(), "10.13 is needed"),
        ("ort-cuda", "Jetson Thor", planned(), "no package for Jetson"),
        ("ort-webgpu", "orin", planned(), None),
        ("ort-cpu", "L4", planned(), None),
        ("openvino", "T4", planned(), None),
    ],
)
def test_a_gpu_that_a_runtime_has_nothing_for_is_refused(runtime, gpu, model, said):
    """With a reason; a name that nobody knows, or a GPU for a CPU, is the user's mistake."""
    with pytest.raises(InputError if said is None else BackendUnavailableError, match=said) as seen:
        require_suited_gpu(runtime, gpu, model)
    assert seen.value.hint


def test_what_targets_lists_can_be_made():
    """For every GPU and backend there, what `auto` lowers for it in fp32 and fp16 is taken."""
    for gpu in GPU_MODELS.values():
        for runtime, why_not in backends_of(gpu).items():
            lowering = choose_lowering("auto", runtime, gpu.name).lowering
            for precision in ("fp32", "fp16"):
                model = planned(precision, lowering)
                if why_not:
                    with pytest.raises(
                        BackendUnavailableError, match=gpu.label + "|Jetson|JetPack|ARM"
                    ):
                        require_suited_gpu(runtime, gpu.name, model)
                else:
                    require_suited(runtime, model)
                    require_suited_gpu(runtime, gpu.name, model)


@pytest.mark.parametrize("command", ["convert", "export"])
@pytest.mark.parametrize(
    "words",
    [
        ("--runtime", "ort-webgpu", "--fft", "dynamic"),
        ("--runtime", "ort-tensorrt", "--fft", "dynamic"),
        ("--runtime", "tensorrt", "--fft", "dft"),
        ("--runtime", "tensorrt-rtx", "--fft", "dynamic"),
        ("--runtime", "ort-cuda", "--precision", "bf16"),
        ("--runtime", "ort-cpu", "--precision", "bf16"),
        ("--backend", "ort-cuda", "--precision", "bf16"),
        ("--runtime", "ort-webgpu", "--precision", "int8"),
        ("--runtime", "tensorrt-rtx", "--gpu", "H100", "--precision", "fp16"),
    ],
)
def test_commands_refuse_before_they_work(command, words, checkpoint_file, tmp_path):
    """What would be refused later; no file is left, and no package is asked for."""
    source = "x2-fast" if command == "convert" else str(checkpoint_file)
    output = tmp_path / "made.onnx"
    done = CliRunner().invoke(app, [command, source, "-o", str(output), *words])
    assert done.exit_code == 3, done.output
    assert "not installed" not in done.output
    assert "driver" not in done.output
    assert not output.exists()


def test_a_gpu_is_not_named_in_vain(tmp_path):
    """It decides nothing for a file that is made for a CPU, and was ignored."""
    words = ["convert", "x2-fast", "-o", str(tmp_path / "x.onnx"), "--precision", "fp16"]
    done = CliRunner().invoke(app, [*words, "--gpu", "L4"])
    assert done.exit_code == 2
    assert "--runtime tensorrt or" in done.stderr


def test_an_engine_of_kspace_is_not_converted_for(tmp_path):
    """`build` would refuse it."""
    with pytest.raises(BackendUnavailableError, match="takes k-space"):
        convert_model("x2-complex", tmp_path / "x.onnx", precision="fp16", runtime="tensorrt-rtx")


@pytest.mark.parametrize("name", [name for name, info in BACKENDS.items() if info.model])
def test_the_model_is_refused_before_a_package_is_asked_for(name):
    """Nobody should install 2.7 GB to be told that the model cannot run there."""
    model = load_model(resolve_model("x2-fast", upscale=None))
    for change in ({"precision": "bf16"}, {"lowering": "dft"}, {"precision": "int8"}):
        if REFUSED.isdisjoint((name, value) for value in change.values()):
            continue
        unsuited = dataclasses.replace(model, spec=dataclasses.replace(model.spec, **change))
        bound = bind(model, (16, 16))
        asked = (
            lambda unsuited=unsuited: choose_backend(name, unsuited),
            lambda bound=bound, spec=unsuited.spec: open_backend(
                name, dataclasses.replace(bound, spec=spec)
            ),
        )
        for ask in asked:
            with pytest.raises(BackendUnavailableError) as caught:
                ask()
            assert not any(word in str(caught.value) for word in ("not installed", "driver"))
