"""Memory does not grow with the archive: queues are bounded, and what is kept of a slice is small.

The bound is that 10,000 slices take at most 100 MB more than 100 do. ``KSPACESR_MEMORY_SLICES``
says how many are generated (default 2,000; the bound is scaled by it).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import fault_cases
import pytest

N_SLICES = int(os.environ.get("KSPACESR_MEMORY_SLICES", "2000"))
BYTES_A_SLICE = 100e6 / 9_900
"""What 10,000 slices may take more than 100, by slice."""
NOISE_BYTES = 12e6
"""What two equal runs differ by: threads take memory in steps."""

MEASURE = """
import json, sys
from pathlib import Path
from kspacesr_rt.pipeline import InferOptions, infer
report = infer(Path(sys.argv[1]), Path(sys.argv[2]), InferOptions(backend="zero-fill", batch=4))
# Not ru_maxrss: that of a process begins with what the one that started it had.
[peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
peak_bytes = 1024 * int(peak.split()[1])
print(json.dumps({"written": report.count("written"), "peak_bytes": peak_bytes}))
"""


def peak_bytes(source: Path, out: Path, n_slices: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source), str(out)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    told = json.loads(done.stdout)
    assert told["written"] == n_slices
    return int(told["peak_bytes"])


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read in /proc")
def test_ten_thousand_slices_take_little_more_memory_than_a_hundred(tmp_path, record_property):
    """An archive is processed on the machine that a study is processed on."""
    fault_cases.make_slices(tmp_path / "few", 100)
    fault_cases.make_slices(tmp_path / "many", N_SLICES)
    few = peak_bytes(tmp_path / "few", tmp_path / "few-out", 100)
    many = peak_bytes(tmp_path / "many", tmp_path / "many-out", N_SLICES)
    told = {"slices": N_SLICES, "few_bytes": few, "many_bytes": many}
    record_property("memory", told)
    print(told)
    assert many - few < BYTES_A_SLICE * (N_SLICES - 100) + NOISE_BYTES
