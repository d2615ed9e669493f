"""The run report: counts, exit codes and file labels."""

import dataclasses
import json
from pathlib import Path

import pytest

from kspacesr_rt.errors import OutputError
from kspacesr_rt.pipeline.report import (
    RunReport,
    SeriesRecord,
    SeriesWarning,
    SliceRecord,
    StageTiming,
    require_replaceable,
)
from kspacesr_rt.system.file_labels import file_label


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


@pytest.mark.parametrize("code", [130, 143, 7, 1])
def test_what_ended_a_run_is_its_exit_code_whatever_failed_before(code, tmp_path):
    """In the object and in the file: a script that reads either must not take half for whole."""
    ended = dataclasses.replace(
        report(record("written"), record("failed", "non-finite")), interrupted=True, ended_with=code
    )
    ended.save(tmp_path / "report.json")
    assert ended.exit_code == code
    assert json.loads((tmp_path / "report.json").read_bytes())["exit_code"] == code


def test_frames_count_as_slices_and_files_as_files():
    """A multi-frame file of 40 frames is one file and forty slices."""
    frames = dataclasses.replace(record("written"), n_frames=40)
    one = report(frames, record("written"), dataclasses.replace(frames, outcome="failed"))
    assert (one.count("written"), one.count_slices("written")) == (2, 41)
    assert (one.count("failed"), one.count_slices("failed")) == (1, 40)
    assert one.as_text().startswith("41 slices written")


def test_the_summary_counts_each_reason_and_warning():
    """One line a reason, however many files it was."""
    text = report(
        record("written", warnings=("interpolated 160->320",)),
        record("skipped", "not-dicom"),
        record("skipped", "not-dicom"),
        record("failed", "codec"),
    ).as_text()
    assert text.splitlines() == [
        "1 slice written in 1 series (x2, zero-fill on zero-fill, 1.2 s)",
        "1 failed: codec",
        "  failed f: codec",
        "2 skipped: not-dicom",
        "warning for 1 slice: interpolated 160->320",
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


def flagged(n):
    return SliceRecord(
        file=f"sha256:{n:012d}",
        outcome="written",
        added_energy_ratio=1.5,
        intensity_drift=1e-7,
        flags=("added_energy_ratio",),
    )


def test_flagged_slices_are_counted_and_named():
    """A reader of the summary knows which slices to look at, and why."""
    given = dataclasses.replace(
        report(record("written"), flagged(1), flagged(2)), bounds={"added_energy_ratio": 1.25}
    )
    assert given.summary()["flagged"] == 2
    lines = given.as_text().splitlines()
    assert "2 slices flagged as beyond the model's bounds" in lines
    assert "  sha256:000000000001: added_energy_ratio 1.5 > 1.25" in lines
    assert given.exit_code == 0
    many = dataclasses.replace(given, slices=tuple(flagged(n) for n in range(25)))
    assert "  and 5 more: see the report" in many.as_text()


def test_flagged_frames_are_counted_as_slices_and_files_as_files():
    """`1 slice flagged` of a file in which ten are sends nobody to the other nine."""
    frames = dataclasses.replace(
        flagged(3),
        file="slices.npy",
        n_frames=20,
        flags=("added_energy_ratio", "intensity_drift", "clipped"),
        flagged_frames={
            "added_energy_ratio": (3, 7, 8, 9),
            "intensity_drift": (8, 20),
            "clipped": (1, 3),
        },
    )
    bounds = {"added_energy_ratio": 1.25, "intensity_drift": 1e-8}
    given = dataclasses.replace(report(record("written"), flagged(1), frames), bounds=bounds)
    assert given.summary()["flagged"] == 2
    assert given.summary()["flagged_slices"] == given.flagged_slices == 7
    lines = given.as_text().splitlines()
    assert "2 slices flagged as clipped: brighter than pixels can store" in lines
    at = lines.index("6 slices flagged as beyond the model's bounds")
    assert lines[at + 1 : at + 3] == [
        "  sha256:000000000001: added_energy_ratio 1.5 > 1.25",
        "  slices.npy: frames 3, 7 to 9, 20: "
        "added_energy_ratio 1.5 > 1.25, intensity_drift 1e-07 > 1e-08",
    ]
    one = dataclasses.replace(frames, flagged_frames={"added_energy_ratio": (5,)})
    text = dataclasses.replace(report(one), bounds={"added_energy_ratio": 1.25}).as_text()
    assert "1 slice flagged as beyond the model's bounds" in text
    assert "  slices.npy: frame 5: added_energy_ratio 1.5 > 1.25" in text


def test_flags_without_frames_are_counted_for_what_they_prove():
    """An earlier version has noted that a file has some, not which."""
    old = dataclasses.replace(flagged(1), n_frames=20, flags=("added_energy_ratio", "clipped"))
    given = dataclasses.replace(report(old, flagged(2)), bounds={"added_energy_ratio": 1.25})
    text = given.as_text()
    assert "at least 2 slices flagged as beyond the model's bounds" in text
    assert "  sha256:000000000001: at least 1 of 20 frames: added_energy_ratio 1.5 > 1.25" in text
    assert "at least 1 slice flagged as clipped" in text
    assert given.flagged_slices == 2


def test_the_file_holds_the_flagged_frames(tmp_path):
    """A script that fetches them for a person needs their numbers."""
    frames = dataclasses.replace(
        record("written"), n_frames=9, flags=("clipped",), flagged_frames={"clipped": (2, 9)}
    )
    report(frames, record("written")).save(tmp_path / "r.json")
    stored = json.loads((tmp_path / "r.json").read_text())
    assert [one["flagged_frames"] for one in stored["slices"]] == [{"clipped": [2, 9]}, {}]
    assert (stored["flagged"], stored["flagged_slices"]) == (1, 2)


def test_failed_files_are_named_with_what_they_lack():
    """Who has to mend a file needs to know which and what; not what was none of ours anyway."""

    def failed(number, file=None):
        return SliceRecord(
            file=file or f"sha256:{number:012x}",
            outcome="failed",
            reason="missing-attribute",
            message="has no Rows",
        )

    skipped = record("skipped", "not-dicom")
    lines = report(record("written"), failed(1), skipped).as_text().splitlines()
    assert lines[1:4] == [
        "1 failed: missing-attribute",
        "  failed sha256:000000000001: missing-attribute: has no Rows",
        "  files are named by a digest; --show-paths names them by their paths",
    ]
    assert not any("not-dicom:" in line for line in lines)
    shown = report(failed(1, "study/7.dcm")).as_text()
    assert "  failed study/7.dcm: missing-attribute: has no Rows" in shown
    assert "--show-paths" not in shown
    many = report(*(failed(n) for n in range(25))).as_text()
    assert many.count("has no Rows") == 20
    assert "  and 5 more: -v names all" in many
    assert report(*(failed(n) for n in range(25))).as_text(verbose=True).count("has no Rows") == 25
    told = report(record("written"), failed(1), skipped).as_text(verbose=True).splitlines()
    assert told[1:3] == lines[1:3]  # in the same place
    assert sum("not-dicom" in line for line in told) == 2


def test_a_model_without_bounds_says_so_and_a_baseline_need_not():
    """No flags must not read as no problems."""
    sentence = "the model states no bounds: no slice is flagged"
    assert sentence not in report(record("written")).as_text()
    assert sentence in dataclasses.replace(report(record("written")), weights_sha256="a").as_text()


def test_an_interrupted_run_says_what_it_did_not_reach():
    """Whoever finds the folder in the morning runs it again."""
    text = dataclasses.replace(report(record("written")), interrupted=True, not_reached=7).as_text()
    assert "interrupted: 1 slice done, 7 left; the same command goes on with them" in text


def test_a_run_that_had_nothing_to_do_says_so():
    """`0 slices written` looks like a failure."""
    text = report(record("present"), record("present")).as_text()
    assert text.startswith("nothing new: 2 slices in 1 series were already there (x2, ")
    assert "written" not in text
    lines = report(record("written"), record("present")).as_text().splitlines()
    assert lines[0].startswith("1 slice written in 1 series (x2, ")
    assert lines[1] == "1 slice already there"


@pytest.mark.parametrize(
    "written", [{"nifti": "a.nii.gz"}, {"trust_map": "a.dcm", "trust_map_outcome": "written"}]
)
def test_a_run_that_wrote_beside_the_slices_does_not_say_nothing_new(written):
    """`nothing new` before `1 trust map written` is a contradiction."""
    series = SeriesRecord(
        series_instance_uid="1.2",
        n_slices=1,
        matrix=(8, 8),
        measured_shares=(None, None),
        acquired=(None, None),
        interpolated=False,
        **written,
    )
    text = dataclasses.replace(report(record("present")), series_records=(series,)).as_text()
    assert text.startswith("no new slice: 1 slice in 1 series were already there (x2, ")
    assert "nothing new" not in text
    kept = dataclasses.replace(series, nifti="", trust_map_outcome="present")
    text = dataclasses.replace(report(record("present")), series_records=(kept,)).as_text()
    assert text.startswith("nothing new: ")


@pytest.mark.parametrize(("workers", "threads"), [(1, "its thread was"), (4, "its 4 threads were")])
def test_the_bottleneck_says_what_its_share_is_of(workers, threads):
    stage = StageTiming(name="infer", busy_s=1.0, cpu_s=0.5, workers=workers, utilisation=0.5)
    text = dataclasses.replace(report(record("written")), stages=(stage,), bottleneck="infer")
    assert f"bottleneck: infer; {threads} busy 50% of the run" in text.as_text()


def test_a_warning_of_one_series_is_said_once_however_much_is_asked_for():
    """Under `-v` those of several series are said of each."""
    warned = record("written", warnings=("interpolated 160->320",))
    one = SeriesWarning(
        number=1, series_instance_uid="1.2", file="f", warning=warned.warnings[0], n_slices=1
    )
    single = dataclasses.replace(report(warned), series_warnings=(one,))
    assert single.as_text(verbose=True).count("interpolated 160->320") == 1
    other = dataclasses.replace(one, number=2)
    several = dataclasses.replace(report(warned, warned), series_warnings=(one, other))
    assert several.as_text(verbose=True).count("interpolated 160->320") == 3


@pytest.mark.parametrize("content", [b"years of work", b"[1]", b'{"schema": 1}', b"\xff\xfe"])
def test_a_report_replaces_reports_only(content, tmp_path):
    """`--report notes.txt` must not cost anybody their notes."""
    path = tmp_path / "notes.txt"
    require_replaceable(path)
    path.write_bytes(content)
    with pytest.raises(OutputError, match="no report stands where the report would go"):
        require_replaceable(path)
    path.unlink()
    report(record("written")).save(path)
    require_replaceable(path)
