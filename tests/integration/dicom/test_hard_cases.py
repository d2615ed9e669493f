"""One run over everything that a DICOM folder can hold: each file has its outcome and its word."""

import json
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hard_cases import CASES, SECRETS, write_cases
from pydicom import dcmread

from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.pipeline import InferOptions, infer


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run once; return the report and the output folder."""
    root = tmp_path_factory.mktemp("hard")
    write_cases(root / "in" / "cases")
    output = root / "out"
    report = infer(
        root / "in" / "cases",
        output,
        InferOptions(backend="zero-fill", show_paths=True),
    )
    return report, output


def test_the_table_is_long_and_names_every_file_once():
    """A case that is not in the table proves nothing."""
    assert len(CASES) >= 80
    assert Counter(case.name for case in CASES).most_common(1)[0][1] == 1


def test_every_file_has_its_outcome(outcome):
    """All of them in one run, and nothing is left without a word."""
    report, _ = outcome
    found = {one.file: (one.outcome, one.reason) for one in report.slices}
    assert found == {case.name: (case.outcome, case.reason) for case in CASES}


def test_the_summary_has_a_line_for_every_reason(outcome):
    """A person reads counts, not two hundred records."""
    report, _ = outcome
    lines = report.as_text().splitlines()
    expected = Counter((case.outcome, case.reason) for case in CASES if case.reason)
    for (kind, reason), n in expected.items():
        assert sum(line.startswith(f"{n} {kind}: {reason}") for line in lines) == 1, reason
    assert report.exit_code == 8


def test_nothing_else_is_in_the_output(outcome):
    """One file a written slice, the report, and what it takes to complete a killed run."""
    report, output = outcome
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    state = {"manifest.json", ".kspacesr-rt/lock", ".kspacesr-rt/journal.jsonl"}
    assert files == {one.output for one in report.slices if one.output} | {"report.json"} | state
    flat = {"black.dcm", "constant.dcm"}
    for one in report.slices:
        if one.output:
            with quiet_pydicom():
                pixels = dcmread(output / one.output).pixel_array
            assert (np.ptp(pixels) == 0) == (one.file in flat), one.file


def test_no_patient_is_named(tmp_path, capfd):
    """Not in the report, in what is printed, or in a name; paths are not asked for here."""
    write_cases(tmp_path / "in" / "cases")
    report = infer(tmp_path / "in" / "cases", tmp_path / "out", InferOptions(backend="zero-fill"))
    told = "".join(capfd.readouterr()) + report.as_text(verbose=True)
    told += (tmp_path / "out" / "report.json").read_text()
    told += "\n".join(str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*"))
    assert [secret for secret in SECRETS if secret in told] == []
    assert json.loads((tmp_path / "out" / "report.json").read_text())["failed"] > 40


def test_the_input_is_only_read(tmp_path):
    """Not even a FIFO's time of access; sizes and times are what they were."""
    folder = tmp_path / "in" / "cases"
    write_cases(folder, [case for case in CASES if case.name != "bomb.dcm"])
    before = _state(folder)
    infer(folder, tmp_path / "out", InferOptions(backend="zero-fill"))
    assert _state(folder) == before


def _state(folder: Path):
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[path] = (status.st_size, status.st_mtime_ns, stat.S_IFMT(status.st_mode))
    return found
