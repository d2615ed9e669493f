"""Frames beyond the model's bounds, or cut off: counted and named in every kind of file."""

import dataclasses
import json

import enhanced_cases
import numpy as np
import pytest
from volume_files import save_nifti

from kspacesr_rt.pipeline import InferOptions, backend_pool, infer
from kspacesr_rt.pipeline.journal_entries import checked_line, valid_entry

BICUBIC = InferOptions(backend="bicubic", upscale=2, show_paths=True)
BOUND = 0.01
"""Of `measured_residual`: smooth slices have less than a tenth of it, edges twice as much."""
BEYOND, CLIPPED = (2, 4, 5), (3, 4)
FRAMES = {"measured_residual": BEYOND, "clipped": CLIPPED}
KINDS = ["array.npy", "volume.nii", "enhanced.dcm"]


@pytest.fixture(autouse=True)
def bounds(monkeypatch):
    real = backend_pool.baseline_spec

    def bounded(*arguments):
        return dataclasses.replace(real(*arguments), bounds={"measured_residual": BOUND})

    monkeypatch.setattr(backend_pool, "baseline_spec", bounded)


def six_slices(top):
    """Return slices ``(6, y, x)`` of which `BEYOND` have edges and `CLIPPED` are at the ceiling."""
    y, x = np.indices((32, 32)) - 15.5
    smooth = np.exp(-(y**2 + x**2) / (2 * 2.5**2))
    edges = np.full((32, 32), 0.05)
    edges[10:20, 9:21] = 1.0
    return np.stack(
        [
            np.rint(
                (edges / edges.max() if number in BEYOND else smooth / smooth.max())
                * (top if number in CLIPPED else 0.6 * top)
            )
            for number in range(1, 7)
        ]
    )


@pytest.fixture
def study(tmp_path):
    """Return what saves the six slices as a file of some kind."""

    def save(name):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith(".npy"):
            np.save(path, six_slices(255).astype(np.uint8))
        elif name.endswith(".nii"):  # two volumes of three slices
            data = six_slices(255).astype(np.uint8).reshape(2, 3, 32, 32).transpose(3, 2, 1, 0)
            save_nifti(path, data)
        else:
            frames = [
                enhanced_cases.Frame(pixels=one.astype(np.uint16), in_stack=number)
                for number, one in enumerate(six_slices(4095), 1)
            ]
            enhanced_cases.save(enhanced_cases.build(frames), path)
        return path.parent

    return save


def journal(out):
    (path,) = (out / ".kspacesr-rt").glob("journal*.jsonl")
    return path


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", KINDS)
def test_flagged_frames_are_counted_and_named(study, tmp_path, name, batch):
    """Whoever is to look at them would otherwise look at one slice of 20, or at all."""
    options = dataclasses.replace(BICUBIC, batch=batch)
    report = infer(study(name), tmp_path / "out", options)
    (record,) = report.slices
    assert record.flags == ("measured_residual", "clipped")
    assert record.flagged_frames == FRAMES
    lines = report.as_text().splitlines()
    assert "3 slices flagged as beyond the model's bounds" in lines
    assert "2 slices flagged as clipped: brighter than pixels can store" in lines
    figure = f"measured_residual {record.measured_residual:.3g} > 0.01"
    assert f"  {name}: frames 2, 4, 5: {figure}" in lines
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (stored["flagged"], stored["flagged_slices"], stored["written_slices"]) == (1, 4, 6)
    assert stored["slices"][0]["flagged_frames"] == {
        flag: list(numbers) for flag, numbers in FRAMES.items()
    }


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("how", ["noted", "verified", "found"])
def test_a_run_that_goes_on_names_them_again(study, tmp_path, name, how):
    """By the journal, with outputs read again, and where the journal is lost."""
    source, out = study(name), tmp_path / "out"
    first = infer(source, out, BICUBIC)
    if how == "found":
        journal(out).unlink()
    again = infer(source, out, dataclasses.replace(BICUBIC, verify_existing=how == "verified"))
    assert [one.outcome for one in again.slices] == ["present"]
    assert again.slices[0] == dataclasses.replace(first.slices[0], outcome="present")
    assert again.summary()["flagged_slices"] == 4
    assert "frames 2, 4, 5: " in again.as_text()


def test_what_an_earlier_version_has_noted_is_read(study, tmp_path):
    """It had no frames: that some are flagged is still said, and nothing is computed again."""
    source, out = study("array.npy"), tmp_path / "out"
    infer(source, out, BICUBIC)
    entries = [valid_entry(line) for line in journal(out).read_bytes().splitlines()]
    assert any(one.get("record", {}).pop("flagged_frames", None) for one in entries)
    journal(out).write_bytes(b"".join(checked_line(_without_checksum(one)) for one in entries))
    report = infer(source, out, BICUBIC)
    (record,) = report.slices
    assert (record.outcome, record.flagged_frames) == ("present", {})
    assert record.flags == ("measured_residual", "clipped")
    text = report.as_text()
    assert "at least 1 slice flagged as beyond the model's bounds" in text
    assert "at least 1 slice flagged as clipped" in text
    assert "  array.npy: at least 1 of 6 frames: measured_residual " in text
    assert report.summary()["flagged_slices"] == 1


def _without_checksum(entry):
    return {name: value for name, value in entry.items() if name != "crc"}


def test_files_without_a_flag_name_no_frames(tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", six_slices(255)[[0, 5]].astype(np.uint8))
    report = infer(tmp_path / "in", tmp_path / "out", BICUBIC)
    assert (report.slices[0].flags, report.slices[0].flagged_frames) == ((), {})
    assert report.summary()["flagged_slices"] == 0
    assert "flagged" not in report.as_text()
