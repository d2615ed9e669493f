"""Damaged files by the hundred: no crash, no hang, no output without pixels, no patient named.

``KSPACESR_RT_FUZZ=20000`` damages that many files instead of 1000.
"""

import json
import os
import random
import struct
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

import hard_cases
import pytest
from pydicom import dcmread

from kspacesr_rt.dicom.quiet import quiet_pydicom

N_FILES = int(os.environ.get("KSPACESR_RT_FUZZ", "1000"))
BATCH = 125
TIMEOUT_S = 300
"""Wall time that a batch may take; it takes 10 s."""
SOUND = [row for row in hard_cases.CASES if row.outcome == "written" and row.make is not None]
SAID = {0, 5, 8, 9}
"""Exit codes of a run that has looked at its input; 1 would be an internal error."""
VRS = (b"UI", b"LO", b"DS", b"IS", b"SQ", b"OB", b"OW", b"UN", b"US", b"FD", b"AT", b"ZZ", b"PN")


def flip_bits(rng, data):
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_header_bits(rng, data):
    for _ in range(rng.choice((1, 2, 5, 20))):
        data[rng.randrange(min(len(data), 2600))] ^= 1 << rng.randrange(8)


def flip_last_bits(rng, data):
    for _ in range(rng.choice((1, 2, 5, 20))):
        data[-rng.randrange(1, min(len(data), 1200))] ^= 1 << rng.randrange(8)


def cut(rng, data):
    del data[rng.randrange(len(data)) :]


def cut_the_end(rng, data):
    del data[-rng.randrange(1, min(len(data), 900)) :]


def take_out(rng, data):
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 8, 100))]


def put_in(rng, data):
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 2, 8, 100)))


def overwrite(rng, data):
    at = rng.randrange(len(data))
    n = rng.choice((2, 4, 16, 64))
    data[at : at + n] = rng.choice((rng.randbytes(n), bytes(n), b"\xff" * n))


def repeat(rng, data):
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((8, 64, 512))]


def _element(rng, data):
    """Return where an explicit element of group 8, 10, 18, 20 or 28 seems to begin."""
    places = [
        at
        for at in range(132, min(len(data), 3000) - 8, 2)
        if data[at] in (0x02, 0x08, 0x10, 0x18, 0x20, 0x28) and data[at + 1] == 0
    ]
    return rng.choice(places) if places else 0


def damage_vr(rng, data):
    at = _element(rng, data)
    data[at + 4 : at + 6] = rng.choice(VRS)


def damage_length(rng, data):
    at = _element(rng, data)
    data[at + 6 : at + 8] = struct.pack("<H", rng.choice((0, 1, 3, 255, 0x7FFF, 0xFFFF)))


def damage_tag(rng, data):
    at = _element(rng, data)
    data[at : at + 4] = struct.pack(
        "<HH", rng.choice((2, 8, 0x28, 0x7FE0, 0xFFFE)), rng.choice((0x10, 0x11, 0xE000, 0xE0DD))
    )


def damage_value(rng, data):
    at = _element(rng, data)
    n = rng.randrange(1, 20)
    data[at + 8 : at + 8 + n] = rng.choice(
        (rng.randbytes(n), b"9" * n, b"-1\\1e9\\NaN  "[:n], bytes(n))
    )


DAMAGES = [
    *(flip_bits, flip_header_bits, flip_last_bits, cut, cut_the_end, take_out, put_in, overwrite),
    *(repeat, damage_vr, damage_length, damage_tag, damage_value),
]


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


@pytest.mark.parametrize("batch", range(-(-N_FILES // BATCH)))
def test_damaged_files_do_no_harm(batch, tmp_path):
    """Every file has an outcome, every output its pixels, and nobody is named."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    n = min(BATCH, N_FILES - batch * BATCH)
    damaged(folder, batch, n)
    command = [sys.executable, "-X", "faulthandler", "-m", "kspacesr_rt", "infer", folder, output]
    done = subprocess.run(
        [*map(str, command), "--backend", "zero-fill", "--verbose"],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    told = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode in SAID, told[-3000:]
    assert done.stderr == b"", told[-3000:]
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
