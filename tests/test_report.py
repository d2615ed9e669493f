"""The run report: counts, exit codes and file labels."""

import json
from pathlib import Path

import pytest

from kspacesr_rt.report import RunReport, SliceRecord, file_label


def report(*slices):
    return RunReport(
        version="1",
        backend="zero-fill",
        model="zero-fill",
        weights_sha256="",
        upscale=2,
        slices=slices,
        series=1,
        seconds={"total": 1.25},
    )


def record(outcome, reason="", warnings=()):
    return SliceRecord(file="f", outcome=outcome, reason=reason, warnings=warnings)


@pytest.mark.parametrize(
    ("slices", "code"),
    [
        ([record("written")], 0),
        ([record("written"), record("skipped", "not-dicom")], 0),
        ([record("written"), record("failed", "truncated")], 8),
        ([record("failed", "truncated"), record("failed", "non-finite")], 5),
        ([record("failed", "data-consistency")], 5),
    ],
)
def test_exit_codes_follow_the_worst_slice(slices, code):
    """A bad input is told apart from a bad computation."""
    assert report(*slices).exit_code == code


def test_the_summary_counts_each_reason_and_warning():
    """One line a reason, however many files it was."""
    text = report(
        record("written", warnings=("interpolated 160->320",)),
        record("skipped", "not-dicom"),
        record("skipped", "not-dicom"),
        record("failed", "codec"),
    ).as_text()
    assert text.splitlines() == [
        "1 slices written in 1 series (x2, zero-fill on zero-fill, 1.2 s)",
        "1 failed: codec",
        "2 skipped: not-dicom",
        "warning for 1 slices: interpolated 160->320",
    ]


def test_the_file_holds_every_slice(tmp_path):
    """A script reads the same numbers a person sees."""
    report(record("written"), record("failed", "codec")).save(tmp_path / "r.json")
    stored = json.loads((tmp_path / "r.json").read_text())
    assert (stored["written"], stored["failed"], stored["schema"]) == (1, 1, 1)
    assert [one["outcome"] for one in stored["slices"]] == ["written", "failed"]


def test_labels_hide_names_and_tell_files_apart():
    """File names often are patients' names."""
    root = Path("/in")
    labels = {file_label(root / name, root, show_path=False) for name in ("a/Meier.dcm", "b.dcm")}
    assert len(labels) == 2
    assert not any("Meier" in label for label in labels)
    assert file_label(root / "a/Meier.dcm", root, show_path=True) == "a/Meier.dcm"
