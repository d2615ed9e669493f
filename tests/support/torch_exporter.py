"""torch's exporter, loaded once for all tests of a process that export networks.

Networks are exported in forks of this process. Each would load the exporter's two thousand modules
anew, for 2.4 of the 5.6 s of processor time that a small network takes; fill the tables of torch's
decompositions, for 1.2 s more; read the source of every operator of its library, for 0.7 s; and ask
for every operator in C++, once for each of a dozen namespaces, for 0.3 s. What torch knows of each
operator is put together once, too, and copied.
"""

import functools
import warnings

import pytest
from torch import nn
from torch._export import utils
from torch.fft import fft2, ifft2
from torch.onnx._internal._lazy_import import onnxscript_apis
from torch.onnx._internal.exporter._registration import ONNXRegistry

from kspacesr_rt.export.module_lowering import lower_module
from kspacesr_rt.model.spec import ModelSpec


class Small(nn.Module):
    """Has what most networks have, and transforms."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2))

    def forward(self, lr):
        return self.body(ifft2(fft2(lr)).real)


@pytest.fixture(scope="session", autouse=True)
def _exporter_is_loaded():
    # What each export makes anew from declarations alone.
    operators = functools.cache(onnxscript_apis.get_torchlib_ops)
    in_cpp = functools.cache(utils._materialize_cpp_cia_ops)
    from_torchlib = functools.cache(ONNXRegistry.from_torchlib)

    def copied(*version, **named):
        """Each export registers functions of its own."""
        made, kept = ONNXRegistry(), from_torchlib(*version, **named)
        made._opset_version = kept._opset_version
        made.functions = {target: [*found] for target, found in kept.functions.items()}
        return made

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(onnxscript_apis, "get_torchlib_ops", operators)
        patch.setattr(utils, "_materialize_cpp_cia_ops", in_cpp)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(copied))
        warnings.simplefilter("ignore")
        spec = ModelSpec(
            name="small", architecture="custom", upscale=2, matrix=(128, 128), lowering="gemm"
        )
        lower_module(Small().eval(), spec=spec)
        yield
