"""An archive of every kind of file, runs of it in processes of their own, and what was lost.

Run as a script it is `kspacesr-rt` with a backend that is slow, and that notes what it computed:
``FAULT_SLEEP`` is the seconds a batch takes longer, ``FAULT_LOG`` the file in which every computed
slice becomes one byte, ``FAULT_READY`` a file that is there as soon as series are processed,
``FAULT_HOLD`` a file that has batches wait, but for the first ``FAULT_FREE`` (five), until it is
gone.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import enhanced_cases
import pydicom

from kspacesr_rt.bench.run.archive import make_archive
from kspacesr_rt.dicom.uids import stable_uid

MATRIX, OTHER_MATRIX = (48, 40), (33, 47)
N_FRAMES = 7
EPOCH = "1700000000"
"""What outputs are dated with, so that their bytes repeat."""
HOLD_S = 600.0
"""Longer than a test waits: a run that is held is let go by its test, or dies with it."""


def renamed(folder: Path, salt: str) -> None:
    """Give every slice below a folder UIDs of its own, so that archives can be mixed."""
    for path in sorted(folder.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = stable_uid(salt, str(dataset.SOPInstanceUID))
        dataset.SeriesInstanceUID = stable_uid(salt, str(dataset.SeriesInstanceUID))
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path)


def make_mixed(folder: Path, *, n_slices: int = 25, n_others: int = 22) -> int:
    """Write series of two matrices and one multi-frame file; return how many files these are."""
    make_archive(folder / "one", n_slices, matrix=MATRIX)
    make_archive(folder / "other", n_others, matrix=OTHER_MATRIX)
    renamed(folder / "other", "other matrix")
    frames = enhanced_cases.build(enhanced_cases.sample_frames(N_FRAMES, step=4))
    enhanced_cases.save(frames, folder / "frames" / "frames.dcm")
    return n_slices + n_others + 1


def make_slices(folder: Path, n_slices: int, *, salt: str = "") -> list[Path]:
    """Write small classic slices and return their files."""
    make_archive(folder, n_slices, matrix=MATRIX)
    if salt:
        renamed(folder, salt)
    return sorted(folder.rglob("*.dcm"))


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every output below a folder, as a reader of ``*.dcm`` would see it."""
    found = {}
    for path in sorted(folder.glob("*/*.dcm")):
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files that are left below a folder."""
    return sorted(folder.rglob("*.part"))


def losses(expected: dict[str, str], folder: Path) -> dict[str, int]:
    """Count what an output folder lacks, has changed, and has beyond what was expected."""
    found = contents(folder)
    return {
        "lost": len(expected.keys() - found.keys()),
        "changed": sum(found[name] != expected[name] for name in found.keys() & expected.keys()),
        "added": len(found.keys() - expected.keys()),
    }


NOTHING_LOST = {"lost": 0, "changed": 0, "added": 0}


def environment(*, sleep_s: float = 0.0, log: Path | None = None, **more: str) -> dict[str, str]:
    """Return the environment of a run."""
    tests = str(Path(__file__).parent)
    told = {**os.environ, "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": EPOCH, "PYTHONPATH": tests}
    faults = {"FAULT_SLEEP": str(sleep_s), "FAULT_LOG": str(log or ""), "FAULT_READY": os.devnull}
    return {**told, **faults, "FAULT_HOLD": "", "FAULT_FREE": "5", **more}


def start(
    *arguments: object, sleep_s: float = 0.0, log: Path | None = None, **more: str
) -> subprocess.Popen[str]:
    """Start `kspacesr-rt` with arguments, its backend slowed down."""
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(sleep_s=sleep_s, log=log, **more),
    )


def ended(process: subprocess.Popen[str], *, timeout_s: float = 300.0) -> tuple[int, str]:
    """Wait for a run; return its exit code and what it said on stderr."""
    try:
        _, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, stderr


def wait_until(condition, process: subprocess.Popen[str] | None = None, *, timeout_s=300.0) -> bool:
    """Wait for a condition, no longer than a process runs; return whether it came."""
    began = time.monotonic()
    until = began + timeout_s
    while not condition():
        if process is not None and process.poll() is not None:
            return bool(condition())
        now = time.monotonic()
        assert now < until, "what was waited for did not come"
        time.sleep(max(0.01, now - began))  # a look at every process takes long: half a core
        began = time.monotonic()
    return True


def _main() -> None:
    from kspacesr_rt.cli import main
    from kspacesr_rt.pipeline import backend_pool
    from kspacesr_rt.pipeline.executors import LocalExecutor

    real_process = LocalExecutor.process
    real, sleep_s = backend_pool.open_backend, float(os.environ["FAULT_SLEEP"])
    log = os.environ["FAULT_LOG"]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else None
    hold, free = os.environ["FAULT_HOLD"], int(os.environ["FAULT_FREE"])
    batches = itertools.count()

    def open_slowly(*arguments):
        backend = real(*arguments)
        run = backend.run

        @functools.wraps(run)
        def run_slowly(batch):
            time.sleep(sleep_s)
            if next(batches) >= free and hold:
                wait_until(lambda: not Path(hold).exists(), timeout_s=HOLD_S)
            if file is not None:
                os.write(file, b"." * len(batch))
            return run(batch)

        backend.run = run_slowly
        return backend

    def process_and_tell(*arguments):
        Path(os.environ["FAULT_READY"]).touch()
        return real_process(*arguments)

    backend_pool.open_backend, LocalExecutor.process = open_slowly, process_and_tell
    if limit := os.environ.get("FAULT_FILE_SIZE"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    main()


if __name__ == "__main__":
    _main()
