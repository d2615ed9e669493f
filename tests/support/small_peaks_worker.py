"""A worker of the benchmark whose peaks are of small matrices and arrays: half a second, not seven.

For tests that ask what becomes of a peak and not how high it is: `take_their_place` has it run for
`kspacesr_rt.bench.run.worker`, and this process count as many operations and bytes as it does.
"""

from kspacesr_rt.bench.run import scheduler, worker
from kspacesr_rt.export import machine_peaks

SIZES = {"GEMM_SIZE": 512, "SMALLEST_ARRAY_BYTES": 1 << 20, "LARGEST_ARRAY_BYTES": 1 << 20}


def take_their_place(monkeypatch):
    monkeypatch.setattr(scheduler, "WORKER", (__file__,))
    for name, size in SIZES.items():
        monkeypatch.setattr(machine_peaks, name, size)


if __name__ == "__main__":
    for name, size in SIZES.items():
        setattr(machine_peaks, name, size)
    worker.main()
