"""What was exported is bound and run where torch cannot be imported."""

from __future__ import annotations

import subprocess
import sys


def test_binding_and_running_need_no_torch(model_file):
    """A scanner-side box has no PyTorch: proved in a fresh interpreter."""
    script = """
import sys
from pathlib import Path
import numpy as np
from kspacesr_rt.runtime.backends import open_backend
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model
bound = bind(load_model(Path(sys.argv[1])), (21, 34))
with open_backend("ort-cpu", bound) as backend:
    assert backend.run(np.ones((2, 1, 21, 34), np.float32)).shape == (2, 1, 42, 68)
assert "onnxruntime" in sys.modules
print(sorted({"torch", "kspacesr_rt.train", "kspacesr_rt.export"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(model_file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
