"""The script that compares a run with a tier to the row that it takes; not how fast either is."""

from __future__ import annotations

import shutil

from kspacesr_rt.bench.run import tier_speed
from kspacesr_rt.conversion import tiers
from kspacesr_rt.sample import sample_folder


def test_the_row_of_a_tier_is_run_by_its_own_file_and_backend(model_file, tmp_path, monkeypatch):
    """Both compute the same, so their times can be compared; fp32 stands beside them."""
    monkeypatch.setenv("KSPACESR_RT_CACHE", str(tmp_path / "cache"))
    figures = {"fp32": 9.0, "fp16": 8.0, "bf16": 9.0}
    monkeypatch.setattr(
        tiers, "seconds_per_slice", lambda model, *rest: figures[model.spec.precision]
    )
    (tmp_path / "study").mkdir()
    shutil.copy(sorted(sample_folder().glob("*.dcm"))[8], tmp_path / "study")
    monkeypatch.setattr(tier_speed, "sample_folder", lambda: tmp_path / "study")
    opened = []
    real = tier_speed.infer

    def infer(source, output, options):
        report = real(source, output, options)
        opened.append((report.backend, report.precision, report.weights_sha256))
        return report

    monkeypatch.setattr(tier_speed, "infer", infer)
    found = tier_speed.tier_speed(str(model_file), "fast", rounds=1, threads=1)
    assert found["row"].startswith("fp16 on ")
    of_tier, of_row, exact = opened
    assert of_tier == of_row
    assert (of_tier[1], exact[1]) == ("fp16", "fp32")
    assert set(found["run_s"]) == {"tier", "row", "exact"}
    assert found["ratio"] > 0.0
    assert found["row_ms_per_slice"] > 0.0
