"""What stand-ins imitate, on the real packages: their names, signatures and enumerations."""

from __future__ import annotations

import json
from pathlib import Path

import gpu_interfaces

SUPPORT = Path(gpu_interfaces.__file__).parent
CUDA = """
import inspect, json, operator
from cuda.bindings import runtime
from gpu_interfaces import CUDA_CALLS, CUDA_VALUES
wrong = []
for name, n in CUDA_CALLS.items():
    try:
        inspect.signature(getattr(runtime, name)).bind(*range(n))
    except (AttributeError, TypeError) as exc:
        wrong.append(f"{name}: {exc}")
for name in CUDA_VALUES:
    try:
        operator.attrgetter(name)(runtime)
    except AttributeError as exc:
        wrong.append(str(exc))
status, *values = runtime.cudaMalloc(64)  # no GPU that it knows: an answer all the same
error = runtime.cudaGetErrorString(status)[1]
print(json.dumps([wrong, int(status) != 0, isinstance(error, bytes), runtime.cudaError_t(2).name]))
"""
TENSORRT = """
import json
import tensorrt_bindings
from gpu_interfaces import OF_TENSORRT_10, TENSORRT_NAMES, missing_names
print(json.dumps(missing_names(tensorrt_bindings, TENSORRT_NAMES, OF_TENSORRT_10)))
"""
NVML = """
import json
from kspacesr_rt.system.energy import open_meter
from kspacesr_rt.system.gpu_state import gpu_facts, gpu_snapshot
meter = open_meter(True)
print(json.dumps([gpu_facts(), gpu_snapshot(), meter.joules(meter.counts(), meter.counts())]))
"""


def asked(machine, code, **how):
    done = machine.run("-c", code, path=(SUPPORT,), **how)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_cuda_bindings_take_what_they_are_given(machine):
    """Names and numbers of arguments of every call, and what an error looks like."""
    wrong, fails, has_text, full = asked(machine, CUDA)
    assert wrong == []
    assert fails
    assert has_text
    assert full == "cudaErrorMemoryAllocation"


def test_tensorrt_10_has_the_names(machine):
    """Its Python bindings load over libraries that do nothing."""
    assert asked(machine, TENSORRT) == []


def test_nvml_is_asked_as_it_wants(machine):
    """The real nvidia-ml-py, on a driver of ours: structures and units, not only names."""
    facts, moment, joules = asked(machine, NVML)
    assert facts == {
        "name": "Stand-in GPU (computes nothing)",
        "driver": "580.65.06",
        "memory_bytes": 80 << 30,
        "compute_mode": "default",
        "power_limit_w": 700.0,
        "persistence": True,
        "mig": None,
    }
    assert moment == {
        "sm_mhz": 1980,
        "memory_mhz": 2619,
        "temperature_c": 40,
        "throttled": False,
        "processes": 0,
        "used_bytes": 1 << 30,
    }
    assert joules == 100.0
