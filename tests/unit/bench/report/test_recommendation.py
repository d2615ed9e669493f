"""What a benchmark says to take: right rows of ours alone, by model, target and tier."""

from __future__ import annotations

import pytest

from kspacesr_rt.bench.report.recommendation import recommended, recommended_text
from kspacesr_rt.bench.run.model_variants import SEED_SHAPE
from kspacesr_rt.bench.run.plans import RowPlan
from kspacesr_rt.bench.run.rows import FAILED, OK, UNSTABLE, WRONG, BenchRow


def row(contestant, precision, speed, *, status=OK, model="x2-fast", lowering="gemm", batch=1):
    plan = RowPlan(
        contestant=contestant, model=model, lowering=lowering, precision=precision, batch=batch
    )
    return BenchRow(plan=plan, status=status, slices_per_s=speed)


ROWS = (
    row("ort-cpu", "fp32", 10.0),
    row("openvino", "fp32", 12.0, status=UNSTABLE),
    row("openvino", "bf16", 30.0),
    row("openvino", "int8", 25.0),  # slower than bf16: max has nothing of its own
    row("openvino", "fp16", 90.0, status=WRONG),
    row("ort-cpu", "int8", None, status=FAILED),
    row("torch-eager", "fp32", 99.0, lowering=""),
    row("zero-fill", "fp32", 999.0, lowering=""),
    row("ort-cpu", "fp32", 400.0, model=SEED_SHAPE),
    row("ort-webgpu", "fp32", 50.0),
    row("ort-cuda", "fp16", 200.0, batch=8),
    row("ort-cuda", "int8", 300.0),
)


def test_the_fastest_right_row_of_each_tier_and_target():
    """Peers, baselines, the seed's shape, and what is wrong or failed are not for taking."""
    found = [(one.target, one.tier, one.row.plan.label, one.gain) for one in recommended(ROWS)]
    assert found == [
        ("CPU", "exact", "openvino gemm fp32 batch 1", None),
        ("CPU", "fast", "openvino gemm bf16 batch 1", 2.5),
        ("GPU", "exact", "ort-webgpu gemm fp32 batch 1", None),
        ("GPU", "fast", "ort-cuda gemm fp16 batch 8", 4.0),
        ("GPU", "max", "ort-cuda gemm int8 batch 1", 6.0),
    ]


@pytest.mark.parametrize(
    ("rows", "ends"),
    [
        (ROWS[:1], "infer IN OUT --model x2-fast --backend ort-cpu --batch 1"),
        (
            ROWS[10:11],
            "fast: ort-cuda gemm fp16 batch 8, 200 slices/s: convert x2-fast -o "
            "M.onnx --precision fp16 --fft gemm --runtime ort-cuda; infer IN OUT --model M.onnx "
            "--backend ort-cuda --batch 8",
        ),
    ],
)
def test_the_command_is_there(rows, ends):
    """So that nobody has to find out how a row was made."""
    assert recommended_text(rows).endswith(ends)


def test_nothing_right_is_nothing_said():
    assert recommended_text([one for one in ROWS if one.status in (FAILED, WRONG)]) == ""
