"""Damaged files by the hundred: no crash, no hang, no output without pixels, no patient named.

``KSPACESR_RT_FUZZ=20000`` damages that many files instead of 1000.
"""

import json
import os
import random
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

import hard_cases
import pytest
from damages import DAMAGES
from pydicom import dcmread

from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom

N_FILES = int(os.environ.get("KSPACESR_RT_FUZZ", "1000"))
BATCH = 125
TIMEOUT_S = 300
"""Wall time that a batch may take; it takes 10 s."""
SOUND = [row for row in hard_cases.CASES if row.outcome == "written" and row.make is not None]
SAID = {0, 5, 8, 9}
"""Exit codes of a run that has looked at its input; 1 would be an internal error."""


def damaged(folder: Path, batch: int, n: int) -> None:
    """Write the files of a batch, each from a sound one, with UIDs of its own, damaged once."""
    rng = random.Random(4711 + batch)
    rows = list(islice(cycle(SOUND), batch * BATCH, batch * BATCH + n))
    for number, row in enumerate(rows):
        path = folder / f"{number:04}"
        with quiet_pydicom():
            row.make(path, hard_cases.sample(number))
        for other in folder.glob("same-*"):
            other.unlink()
        data = bytearray(path.read_bytes())
        rng.choice(DAMAGES)(rng, data)
        path.write_bytes(data)


@pytest.mark.usefixtures("from_a_warm_process")
@pytest.mark.parametrize("batch", range(-(-N_FILES // BATCH)))
def test_damaged_files_do_no_harm(batch, tmp_path):
    """Every file has an outcome, every output its pixels, and nobody is named."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    n = min(BATCH, N_FILES - batch * BATCH)
    damaged(folder, batch, n)
    command = [sys.executable, "-m", "kspacesr_rt", "infer", folder, output]
    done = subprocess.run(
        [*map(str, command), "--backend", "zero-fill", "--verbose"],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    told = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode in SAID, told[-3000:]
    assert done.stderr == b"options: --backend zero-fill (command line)\n", told[-3000:]
    report = json.loads((output / "report.json").read_text())
    assert len(report["slices"]) == len(list(folder.iterdir())) == n
    for one in report["slices"]:
        assert one["outcome"] == "written" or one["reason"], one
        if one["outcome"] == "written":
            with quiet_pydicom():
                pixels = dcmread(output / one["output"]).pixel_array
            assert pixels.shape == tuple(2 * size for size in one["matrix"])
    told += (output / "report.json").read_text()
    told += "\n".join(str(path) for path in output.rglob("*"))
    assert [secret for secret in hard_cases.SECRETS if secret in told] == []
    parts = [path.name for path in output.rglob("*.part")]
    assert parts == []
