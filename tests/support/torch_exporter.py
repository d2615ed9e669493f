"""torch's exporter, loaded once for all tests of a process that export networks.

Networks are exported in forks of this process: each would load the exporter's two thousand modules
anew, for 2.4 of the 5.6 s of processor time that a small network takes.
"""

import warnings

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _exporter_is_loaded():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.zeros(1, 1, 8, 8)
        torch.onnx.export(torch.nn.Conv2d(1, 1, 3), (image,), dynamo=True, verbose=False)
