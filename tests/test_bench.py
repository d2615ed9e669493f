"""The benchmark: rows take turns, failures and wrong answers stay, ratios survive slow hours."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from kspacesr_rt.bench.bench_tables import HEADINGS, as_csv, as_text, markdown
from kspacesr_rt.bench.conductor import (
    Inputs,
    Measured,
    RowFailed,
    RowProcess,
    conduct,
    ratio_of,
    reference_of,
)
from kspacesr_rt.bench.plans import PEERS, REFERENCE, RowPlan, chosen, default_plan
from kspacesr_rt.bench.readme import runtimes_table
from kspacesr_rt.bench.rows import BenchRow, Latency, with_pareto
from kspacesr_rt.bench.variants import VariantFailed, Variants
from kspacesr_rt.bench.worker import GEMM
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError
from kspacesr_rt.metrics import Quality
from kspacesr_rt.model_file import shipped_models

X2 = shipped_models()["x2-fast"]


def plan(contestant="ort-cpu", **changes):
    return RowPlan(**{"contestant": contestant, "model": "x2-fast", "lowering": "gemm", **changes})


def row(ssim, slices_per_s, **changes):
    latency = Latency(p50_s=1.0, p90_s=1.0, p95_s=1.0, p99_s=1.0, calls=1, rounds=1)
    return BenchRow(
        plan=plan(),
        status=changes.pop("status", "ok"),
        latency=latency,
        slices_per_s=slices_per_s,
        quality=Quality(mae=0.01, psnr_db=30.0, ssim=ssim),
        **changes,
    )


@pytest.fixture
def lr_file(tmp_path):
    """Two small LR slices."""
    path = tmp_path / "lr.npy"
    np.save(path, np.random.default_rng(0).random((2, 24, 20), dtype=np.float32))
    return path


def test_every_usable_backend_and_the_reference_have_rows():
    """The table must not miss a runtime that is there, nor lack what ratios are taken to."""
    rows = default_plan(["x2-fast"], batches=(1, 4))
    contestants = {one.contestant for one in rows}
    assert set(PEERS) <= contestants
    assert {"ort-cpu", "openvino", "zero-fill", "bicubic"} <= contestants
    for batch in (1, 4):
        assert any(one.is_reference and one.batch == batch for one in rows)
    assert len({(one.model, one.label) for one in rows}) == len(rows)


def test_a_choice_of_rows_keeps_their_reference():
    """A ratio needs its denominator in the same run, even if nobody asked to see it."""
    rows = chosen(default_plan(["x2-fast"], batches=(1, 4)), ["openvino", "gemm", "fp32"])
    assert {one.contestant for one in rows} == {"openvino", REFERENCE}
    with pytest.raises(InputError, match="no row has"):
        chosen(rows, ["cuda"])


def test_a_plan_survives_json():
    one = plan(batch=3, precision="fp16")
    assert RowPlan.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_ratios_are_taken_within_rounds():
    """A machine that becomes five times slower half-way through must not change a ratio."""
    speeds = [1.0] * 5 + [5.0] * 5
    reference = Measured(
        plan=plan(REFERENCE), times_s=[[2.0 * s, 2.2 * s, 2.0 * s] for s in speeds]
    )
    ours = Measured(plan=plan(), times_s=[[1.0 * s, 1.0 * s] for s in speeds])
    assert ratio_of(ours, reference) == (pytest.approx(2.0), pytest.approx(0.0))


def test_an_unsteady_ratio_shows_its_spread():
    reference = Measured(plan=plan(REFERENCE), times_s=[[1.0]] * 4)
    ours = Measured(plan=plan(), times_s=[[0.5], [1.0], [0.5], [1.0]])
    assert ratio_of(ours, reference)[1] > 0.1


def test_a_failed_reference_is_no_reference():
    reference = Measured(plan=plan(REFERENCE, lowering=""), failed="no torch")
    ours = Measured(plan=plan())
    assert reference_of(ours, [reference, ours]) is None
    reference.failed = ""
    assert reference_of(ours, [reference, ours]) is reference
    other_batch = Measured(plan=plan(batch=2))
    assert reference_of(other_batch, [reference, ours]) is None


def test_pareto_rows_are_those_nothing_beats():
    """Faster or better is worth having; equal quality to four digits is equal."""
    rows = with_pareto(
        [row(0.95, 10.0), row(0.95001, 9.0), row(0.96, 5.0), row(0.94, 20.0, status="wrong")]
    )
    assert [one.pareto for one in rows] == [True, False, True, False]


def test_rows_really_run_in_processes_of_their_own(lr_file, tmp_path):
    """Opened, checked, timed: with the real worker, ours and the machine's peak beside it."""
    plans = [plan(), plan("zero-fill", lowering=""), plan(GEMM, model="", lowering="")]
    inputs = Inputs(model=X2, slices=lr_file)
    found = conduct(plans, lambda _: inputs, tmp_path, budget_s=0.1)
    assert [one.failed for one in found] == ["", "", ""]
    for one in found:
        assert len(one.times_s) >= 7
        assert all(seconds > 0 for visit in one.times_s for seconds in visit)
        assert one.load_s < one.first_result_s
        assert one.peak_rss_bytes > 10e6
    assert np.load(found[0].result).shape == (2, 48, 40)


def test_a_row_that_fails_does_not_take_the_others_along(lr_file, tmp_path):
    """A missing file, a runtime that refuses, an export that was refused: reasons, not an end."""

    def inputs(one):
        if one.precision == "bf16":
            raise RowFailed("the gate said no")
        model = tmp_path / "missing.onnx" if one.precision == "fp16" else X2
        return Inputs(model=model, slices=lr_file)

    plans = [plan(precision="fp16"), plan(precision="bf16"), plan()]
    found = conduct(plans, inputs, tmp_path, budget_s=0.1)
    assert "missing.onnx" in found[0].failed
    assert found[1].failed == "the gate said no"
    assert found[2].times_s


def test_a_process_that_dies_is_a_failed_row(lr_file):
    """A runtime that crashes the interpreter must not hang or end the benchmark."""
    with RowProcess(plan(), Inputs(model=X2, slices=lr_file)) as process:
        process._process.kill()
        with pytest.raises(RowFailed, match="ended with -9"):
            process.ask("open")


def test_variants_are_made_once_and_a_refusal_is_remembered(tmp_path, monkeypatch):
    from kspacesr_rt.export import exporter

    calls = []

    def refuse(*args, **options):
        calls.append(options["lowering"])
        raise InputError("the gate said no\nand why")

    monkeypatch.setattr(exporter, "export_model", refuse)
    variants = Variants(tmp_path)
    for _ in range(2):
        with pytest.raises(VariantFailed, match=r"^the gate said no$"):
            variants.path_for(plan(lowering="conv"))
    assert calls == ["conv"]
    assert variants.path_for(plan()) == X2
    assert variants.path_for(plan(REFERENCE, lowering="")).suffix == ".pt"


def test_tables_hold_every_row_with_its_reason():
    rows = [
        dataclasses.replace(row(0.95, 10.0), ratio=2.0),
        BenchRow(plan=plan("openvino", lowering="dft"), status="failed", reason="computes wrongly"),
        row(0.2, 30.0, status="wrong", reason="12.0 dB from PyTorch fp32"),
    ]
    for text in (markdown(rows), as_text(rows)):
        assert len(text.splitlines()) == len(rows) + (2 if text.startswith("|") else 1)
        assert "computes wrongly" in text
        assert "wrong: 12.0 dB" in text
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [line["status"] for line in read] == ["ok", "failed", "wrong"]
    assert float(read[0]["quality.ssim"]) == 0.95
    assert set(HEADINGS) >= {"times PyTorch", "SSIM", "PSNR to PyTorch"}


def test_the_command_measures_and_readme_reads_it(tmp_path):
    """What a user runs, once, small; and the file it writes makes README's table."""
    file = tmp_path / "rows.json"
    arguments = ["bench", "--model", "x2-fast", "--only", "ort-cpu", "--only", "gemm"]
    arguments += ["--only", "fp32", "--budget", "1", "-o", str(file), "--csv", str(tmp_path / "c")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    stored = json.loads(file.read_text())
    ours = next(BenchRow.from_dict(one) for one in stored["rows"] if one["plan"]["lowering"])
    assert ours.status in ("ok", "unstable")
    assert ours.psnr_between_db > 100
    assert ours.quality.psnr_db > 30
    assert 0 < ours.fft_share < 0.5
    assert 0 < ours.peak_share < 1.5
    assert stored["gemm_flop_per_s"]["fp32"] > 1e9
    table = runtimes_table(stored)
    assert table.count("| x2-fast |") == 2
    assert "ort-cpu" in result.output


def test_wrong_answers_are_called_wrong(tmp_path):
    """A fast peer whose transform is wrong must not look like a result."""
    from kspacesr_rt.bench.benchmark import _Judge, _Slices

    hr = np.random.default_rng(1).random((2, 32, 32), dtype=np.float32)
    paths = [tmp_path / f"{i}.npy" for i in range(2)]
    np.save(paths[0], hr)
    np.save(paths[1], hr[:, ::-1])
    reference = Measured(plan=plan(REFERENCE, lowering=""), times_s=[[1.0]] * 7, result=paths[0])
    peer = Measured(plan=plan("exporter-graph", lowering=""), times_s=[[0.5]] * 7, result=paths[1])
    slices = _Slices(hr=hr, lr=hr[:, ::2, ::2], file=paths[0])
    judge = _Judge(Variants(tmp_path), slices, {}, [reference, peer])
    assert judge.row(peer).status == "wrong"
    assert judge.row(reference).status == "ok"
