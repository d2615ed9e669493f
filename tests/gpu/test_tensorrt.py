"""TensorRT on a GPU that is here: the real engines, graphs and answers."""

import pytest

from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.runtime.self_test import verify_model
from kspacesr_rt.runtime.tensorrt.build import build_engine
from kspacesr_rt.runtime.tensorrt.targets import RUNTIMES
from kspacesr_rt.system import gpu_driver

pytestmark = pytest.mark.gpu


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    if (reason := BACKENDS[request.param].why_not()) is not None:
        pytest.skip(reason)
    return request.param


@pytest.mark.parametrize("upscale", [2, 4])
def test_shipped_models_give_their_known_answer(runtime, upscale):
    """The real thing: engine, graph and fp32 without TF32, against what PyTorch said."""
    result = verify_model(load_model(resolve_model(None, upscale=upscale)), runtime)
    assert result.passed, result


def test_an_engine_for_this_gpu_is_built_here(runtime, tmp_path):
    """The target is found, and TensorRT's keeps its name."""
    model = load_model(resolve_model("x2-fast", upscale=None))
    built = build_engine(model, tmp_path / "x2.engine", matrix=(40, 33), runtime=runtime)
    gpu = gpu_driver.current_gpu()
    assert built.info.inputs.gpu == f"sm{gpu.sm}"
    assert built.info.inputs.gpu_name == (gpu.name if runtime == "tensorrt" else "")
