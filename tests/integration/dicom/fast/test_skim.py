"""Damaged and odd files are judged alike, whether skimmed or parsed."""

import os
import random

import hard_cases
import pytest
from damages import DAMAGES
from skim_cases import agrees, files

from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom

N_DAMAGED = int(os.environ.get("KSPACESR_RT_FUZZ", "1000"))


def test_hard_cases_are_judged_alike(tmp_path):
    """All that a folder can hold, and most of the usual files in it skimmed."""
    hard_cases.write_cases(tmp_path)
    skimmed = {path.relative_to(tmp_path).as_posix(): agrees(path) for path in files(tmp_path)}
    usual = {row.name for row in hard_cases.CASES if row.outcome == "written"}
    assert len(usual) > 50
    assert sum(skimmed.get(name, False) for name in usual) > len(usual) // 2


@pytest.mark.parametrize("seed", range(10))
def test_damaged_files_are_judged_alike(seed, tmp_path):
    """Where a byte is wrong, the two ways of reading may not part."""
    rng = random.Random(815 + seed)
    rows = [
        row
        for row in hard_cases.CASES
        if row.outcome == "written" and row.make not in (None, hard_cases.linked_file)
    ]
    path = tmp_path / "damaged"
    n_skimmed = 0
    for number in range(N_DAMAGED // 10):
        row = rows[(seed * 100 + number) % len(rows)]
        with quiet_pydicom():
            row.make(path, hard_cases.sample(number))
        data = bytearray(path.read_bytes())
        for _ in range(rng.choice((1, 1, 3))):
            rng.choice(DAMAGES)(rng, data)
        path.write_bytes(data)
        n_skimmed += agrees(path)
    assert n_skimmed > N_DAMAGED // 100
