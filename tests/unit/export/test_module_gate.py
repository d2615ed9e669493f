"""The gate of users' networks, where a runtime does not run what the exporter wrote."""

from __future__ import annotations

import numpy as np
import pytest

from kspacesr_rt.conversion.parity import Agreement, DoubleCheck
from kspacesr_rt.errors import ExporterError
from kspacesr_rt.export.module_gate import GateInput, agreement_at, report_of


def agreement(case, psnr_between_db):
    nothing = float("nan")
    return Agreement(
        case=case,
        matrix=(48, 48),
        psnr_between_db=psnr_between_db,
        max_error=nothing,
        centre_error=nothing,
        rim_error=nothing,
        delta_psnr_db=nothing,
        delta_ssim=nothing,
        delta_mae_share=nothing,
        sign_share=0.0,
        finite=True,
    )


@pytest.mark.parametrize(
    ("reference_db", "result_db", "passes"),
    [(96.0, 104.0, True), (96.0, 99.9, False), (103.0, 101.0, False), (130.0, 98.0, False)],
    ids=["pytorch-rounds", "both-round", "pytorch-is-nearer", "the-file-rounds"],
)
def test_fp64_decides_where_pytorch_itself_is_off(reference_db, result_db, passes):
    """The bar stays where it is, of a reference that rounds less; the file may not be the worse."""
    check = DoubleCheck(case="a", reference_db=reference_db, result_db=result_db)
    report = report_of("ort-cpu", [agreement("a", 98.6), agreement("b", 120.0)], [check])
    assert (not report.failures) == passes
    said = f"PyTorch's own fp32 is {reference_db:.1f} dB from its fp64 there"
    assert said in report.as_text()
    assert all(said in failure for failure in report.failures)


def test_without_fp64_the_bar_is_that_of_fp32():
    report = report_of("ort-cpu", [agreement("a", 98.6)])
    assert report.failures == ("a: PSNR between the two 98.6 is outside 100",)


def test_a_runtimes_own_error_is_the_exporters():
    """So that another way of exporting is tried, and at the end a sentence names the matrix."""

    class Failing:
        def run(self, batch):
            raise ValueError("Size of X.shape[axis:] must be at least 1")

    given = GateInput(name="48 x 48, 1 slice", values=np.zeros((1, 1, 48, 48), np.float32))
    with pytest.raises(ExporterError, match="does not run at 48 x 48, 1 slice: Size of X"):
        agreement_at(Failing(), given, given.values)
