"""Sums over spectra that a backend gives, on their way to the check: here, or in a process."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from kspacesr_rt.pipeline import backend_pool
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.session import Session
from kspacesr_rt.pipeline.slice_processes.process import why_no_processes
from kspacesr_rt.quality.half_spectra import HalfSpectra
from kspacesr_rt.runtime.backends import BatchResult
from kspacesr_rt.sample import sample_folder

MORE = 1.0005
"""What the backend adds to the energy outside the band: less than rounding may, and seen."""


class Summing:
    """A backend that starts batches, and says a little more of their energy than there is."""

    def __init__(self, backend):
        self._backend = backend
        self.spec, self.notes, self.transfer_s = backend.spec, (), 0.0
        self.run = backend.run

    def start(self, batch):
        slices = self._backend.run(batch)
        sums = []
        for sr, lr in zip(slices[:, 0], batch[:, 0], strict=True):
            unit = np.abs(lr).max()
            found = HalfSpectra.of(sr / unit, lr / unit).sums(self.spec.sample_grid)
            sums.append(dataclasses.replace(found, outside=found.outside * MORE))
        result = BatchResult(slices=slices, sums=tuple(sums))
        return SimpleNamespace(done=lambda: True, result=lambda: result)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._backend.__exit__(*exc)


@pytest.mark.parametrize(
    "processes",
    [0, pytest.param(2, marks=pytest.mark.skipif(why_no_processes() is not None, reason="Linux"))],
)
def test_the_report_has_the_figures_of_the_backends_sums(tmp_path, monkeypatch, processes):
    """Each slice has its own, wherever it is checked; the other figures are those of the pixels."""
    study = tmp_path / "study"
    study.mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[8:14]:
        (study / path.name).write_bytes(path.read_bytes())
    options = InferOptions(backend="bicubic", preview=False, batch=2, processes=processes)
    with Session(options) as session:
        plain = session.run(study, tmp_path / "plain")
    real = backend_pool.open_backend
    monkeypatch.setattr(backend_pool, "open_backend", lambda *what: Summing(real(*what)))
    with Session(options) as session:
        report = session.run(study, tmp_path / "out")
    assert report.count("written") == plain.count("written") == 6
    ratios = {one.added_energy_ratio for one in plain.slices}
    assert len(ratios) == 6
    for one, other in zip(report.slices, plain.slices, strict=True):
        more = one.added_energy_ratio / other.added_energy_ratio
        assert more == pytest.approx(MORE, abs=1e-5)
        assert one.tissue_drift == other.tissue_drift
        assert one.measured_residual == pytest.approx(other.measured_residual, rel=1e-4)
