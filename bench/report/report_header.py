"""The head of every report: what a benchmark's figures depend on, in words."""

from __future__ import annotations

from typing import Any

from kspacesr_rt.bench.quality.evaluation import LR_OF
from kspacesr_rt.bench.run.stored_result import rows_of
from kspacesr_rt.quality.metrics import CONVENTIONS


def report_header(result: dict[str, Any]) -> dict[str, str]:
    """Return what a reader must know of a result, by name, in the order of reading.

    Parameters
    ----------
    result
        As `kspacesr_rt.bench.run.stored_result.read_result` or `BenchResult.to_dict` gives it.
    """
    environment, rows = result["environment"], rows_of(result)
    threads = ", ".join(str(n) for n in sorted({row.plan.threads for row in rows}))
    batches = ", ".join(str(n) for n in sorted({row.plan.batch for row in rows}))
    convention, memory = result["convention"], result.get("memory_bytes_per_s")
    load = (environment.get("start") or {}).get("load")
    gpu = environment.get("gpu")
    gpu = gpu.get("name") if isinstance(gpu, dict) else gpu
    meaning = f": {CONVENTIONS[convention]}" if convention in CONVENTIONS else ""
    cores = f", {environment['cores']} cores" if environment["cores"] else ""
    found = {
        "date": f"{environment['date']} (UTC)",
        "machine": f"{environment['cpu']}{cores}, {environment['system']}",
        "GPU": gpu if isinstance(gpu, str) else "",
        "load at the start": "" if load is None else f"{load:.1f} runnable processes",
        "CPU threads": "every core" if threads == "0" else threads,
        "slices a call": batches,
        "data": result["data"],
        "metrics": f"{convention}{meaning}; {LR_OF['kspace-crop']}",
        "matrix-product peak": ", ".join(
            f"{rate / 1e9:,.0f} GFLOP/s {name}" for name, rate in result["gemm_flop_per_s"].items()
        ),
        "memory triad": "" if memory is None else f"{memory / 1e9:,.1f} GB/s",
        "versions": ", ".join(
            [
                f"Python {environment['python']}",
                *(f"{name} {version}" for name, version in environment["packages"].items()),
            ]
        ),
        "commit": environment["commit"],
        "command": result.get("command", "kspacesr-rt bench"),
    }
    return {name: text for name, text in found.items() if text}
