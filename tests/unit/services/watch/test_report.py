"""What the report of a watch counts."""

import json

from kspacesr_rt.pipeline.report import SliceRecord
from kspacesr_rt.services.watch.report import WatchReport


def test_flagged_frames_count_as_slices_and_files_as_files(tmp_path):
    """Beside `written_slices`, a number of files would look like one of slices."""
    counted = WatchReport({"model": "m"})
    counted.add(SliceRecord(file="a", outcome="written", flags=("clipped",)))
    counted.add(SliceRecord(file="b", outcome="written", n_frames=9))
    frames = {"intensity_drift": (1, 2, 3), "clipped": (3, 9)}
    counted.add(
        SliceRecord(
            file="c", outcome="written", n_frames=9, flags=tuple(frames), flagged_frames=frames
        )
    )
    counted.save(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["flagged"], report["flagged_slices"]) == (2, 5)
    assert report["slices"][2]["flagged_frames"] == {
        "intensity_drift": [1, 2, 3],
        "clipped": [3, 9],
    }
