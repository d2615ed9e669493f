"""A small benchmark, for tests that ask what becomes of a figure and not how high it is.

`take_their_place` has this file run for `kspacesr_rt.bench.run.worker`: its peaks are of small
matrices and arrays, half a second rather than seven, and this process counts as many operations
and bytes as they have. Visits to a row are short.
"""

from kspacesr_rt.bench.run import worker

SIZES = {"GEMM_SIZE": 512, "SMALLEST_ARRAY_BYTES": 1 << 20, "LARGEST_ARRAY_BYTES": 1 << 20}
VISIT_S = 0.05


def take_their_place(monkeypatch):
    from kspacesr_rt.bench.run import scheduler
    from kspacesr_rt.export import machine_peaks

    monkeypatch.setattr(scheduler, "WORKER", (__file__,))
    monkeypatch.setattr(scheduler, "VISIT_S", VISIT_S)
    for name, size in SIZES.items():
        monkeypatch.setattr(machine_peaks, name, size)


real = worker._open_peak


def open_small_peak(row):
    from kspacesr_rt.export import machine_peaks

    for name, size in SIZES.items():
        setattr(machine_peaks, name, size)
    return real(row)


if __name__ == "__main__":
    worker._open_peak = open_small_peak
    worker.main()
