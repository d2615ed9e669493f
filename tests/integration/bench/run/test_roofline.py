"""What runtimes make of a graph still counts as what it was."""

import numpy as np
import pytest

from kspacesr_rt.bench.run.layer_shares import profiled
from kspacesr_rt.bench.run.model_variants import Variants
from kspacesr_rt.bench.run.plans import RowPlan
from kspacesr_rt.graph.layer_costs import (
    ACTIVATION,
    CONVOLUTION,
    FFT,
)
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model


@pytest.mark.parametrize("lowering", ["gemm", "conv", "dynamic", "dft"])
def test_convolutions_that_a_runtime_widens_stay_convolutions(tmp_path, lowering):
    """ONNX Runtime renames them; beside transforms made of convolutions they must not be lost.

    They are nearly all that is no transform, which can take most of the time where others run too.
    """
    row = RowPlan(contestant="ort-cpu", model="x2-fast", lowering=lowering, precision="fp16")
    model = bind(load_model(Variants(tmp_path).path_for(row)), (96, 96))
    lr = np.random.default_rng(0).random((1, 1, 96, 96), dtype=np.float32)
    seconds = profiled(model, lr, "ort-cpu", 1, calls=3).seconds
    others = sum(seconds.values()) - seconds[FFT]
    assert seconds[CONVOLUTION] + seconds.get(ACTIVATION, 0.0) > 0.6 * others
