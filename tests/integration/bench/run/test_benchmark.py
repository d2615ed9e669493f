"""The benchmark: rows take turns, failures and wrong answers stay, ratios survive slow hours."""

import collections
import csv
import dataclasses
import io
import itertools
import json
import math

import jsonschema
import numpy as np
import pytest
import small_benchmark
from repository import ROOT
from typer.testing import CliRunner

from kspacesr_rt.bench.report.readme import runtimes_table
from kspacesr_rt.bench.report.tables import (
    HEADINGS,
    NOT_IN_A_TERMINAL,
    ONLY_IF_FILLED,
    as_csv,
    as_text,
    markdown,
)
from kspacesr_rt.bench.run import plans, scheduler
from kspacesr_rt.bench.run.model_variants import VariantFailed, Variants
from kspacesr_rt.bench.run.plans import (
    GPU_REFERENCE,
    LOWERINGS,
    ON_GPU,
    PEERS,
    PRECISIONS,
    REFERENCE,
    RowPlan,
    chosen,
    default_plan,
    why_not,
)
from kspacesr_rt.bench.run.preparation import prepare, time_for
from kspacesr_rt.bench.run.roofline import RooflineGroup
from kspacesr_rt.bench.run.rows import BenchRow, Latency, median_uncertainty, with_pareto
from kspacesr_rt.bench.run.scheduler import (
    MAX_ROUNDS,
    MIN_ROUNDS,
    SETTLED,
    WARM_UP_VISITS,
    Inputs,
    Measured,
    RowFailed,
    RowProcess,
    measure_rows,
    ratio_of,
    reference_of,
    speed_reference_of,
)
from kspacesr_rt.bench.run.scoring import MachineRates, Scoring
from kspacesr_rt.bench.run.worker import GEMM, GEMM_CUDA, TRIAD
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError
from kspacesr_rt.model.file import shipped_models
from kspacesr_rt.quality.metrics import Quality

X2 = shipped_models()["x2-fast"]
SCHEMA_FILE = ROOT / "bench" / "results" / "schema.json"
MEMORY = ("peak_rss_bytes", "device_bytes", "engine_bytes")


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
    """The table must miss nothing that is there, nor lack what ratios are taken to."""
    rows = default_plan(["x2-fast"], batches=(1, 4))
    contestants = {one.contestant for one in rows}
    here = {peer for peer in PEERS if "cuda" not in peer}
    assert here <= contestants
    assert {"ort-cpu", "openvino", "zero-fill", "bicubic"} <= contestants
    for batch in (1, 4):
        assert any(one.is_reference and one.batch == batch for one in rows)
        of_batch = [one for one in rows if one.batch == batch]
        assert here <= {one.contestant for one in of_batch}
        for backend in ("ort-cpu", "openvino"):
            pairs = {(r.lowering, r.precision) for r in of_batch if r.contestant == backend}
            assert pairs == set(itertools.product(LOWERINGS, PRECISIONS))
    assert len({(one.model, one.label) for one in rows}) == len(rows)


def test_what_cannot_run_here_has_one_row_with_its_reason(monkeypatch):
    """A reader must see that a GPU was not forgotten; ten rows of one reason are noise."""
    monkeypatch.setattr(plans, "why_no_gpu", lambda: "there is no NVIDIA driver here")
    rows = default_plan(["x2-fast"], batches=(1, 4))
    for backend in (*ON_GPU, GPU_REFERENCE):
        if why_not(plan(backend)) is not None:
            (only,) = (one for one in rows if one.contestant == backend)
            assert only.batch == 1
    assert "torch-cuda-compile" not in {one.contestant for one in rows}
    (reference,) = (one for one in rows if one.contestant == GPU_REFERENCE)
    assert why_not(reference) == "there is no NVIDIA driver here"
    without = default_plan(["x2-fast"], peers=False)
    assert {one.contestant for one in without} & set(PEERS) == {REFERENCE}


def test_a_gpu_has_peers_of_its_own(monkeypatch):
    """A GPU beats any CPU: what runs there is compared with PyTorch there."""
    monkeypatch.setattr(plans, "why_no_gpu", lambda: None)
    rows = default_plan(["x2-fast"], batches=(1, 4))
    assert set(PEERS) <= {one.contestant for one in rows if one.batch == 4}
    gpu_row = plan("tensorrt")
    kept = chosen([*rows, gpu_row], ["tensorrt", "gemm", "fp32"])
    assert {one.contestant for one in kept} == {REFERENCE, GPU_REFERENCE, "tensorrt"}
    cpu = Measured(plan=plan(REFERENCE, lowering=""))
    gpu = Measured(plan=plan(GPU_REFERENCE, lowering=""))
    ours, theirs = Measured(plan=gpu_row), Measured(plan=plan())
    assert speed_reference_of(ours, [cpu, gpu]) is gpu
    assert speed_reference_of(theirs, [gpu, cpu]) is cpu
    assert reference_of(ours, [gpu, cpu]) is cpu  # parity
    gpu.failed = "out of memory"
    assert speed_reference_of(ours, [cpu, gpu]) is None


def test_a_choice_of_rows_keeps_their_reference():
    """A ratio needs its denominator in the same run, even if nobody asked to see it."""
    rows = chosen(default_plan(["x2-fast"], batches=(1, 4)), ["openvino", "gemm", "fp32"])
    assert {one.contestant for one in rows} == {"openvino", REFERENCE}
    with pytest.raises(InputError, match="no row has"):
        chosen(rows, ["cuda"])


def test_a_plan_survives_json():
    one = plan(batch=3, precision="fp16")
    assert RowPlan.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_a_stored_row_names_no_folder():
    """A result goes into a repository, and a path may hold a name."""
    plan = RowPlan(contestant="ort-cpu", model="/home/jane/models/knee.onnx", lowering="gemm")
    stored = BenchRow(plan=plan, status="ok").to_dict()
    assert stored["plan"]["model"] == "knee.onnx"
    assert "jane" not in json.dumps(stored)


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
    rows = with_pareto([row(0.95, 10.0), row(0.95, 30.0, status="unstable")])
    assert [one.pareto for one in rows] == [False, True]  # however well the 30 are known


def test_rows_of_another_upscale_are_another_task():
    """A x4 model has the lower SSIM, and is not beaten for that."""
    rows = [
        dataclasses.replace(row(ssim, speed), upscale=upscale)
        for ssim, speed, upscale in [(0.95, 10.0, 2), (0.85, 9.0, 4), (0.84, 8.0, 4)]
    ]
    assert [one.pareto for one in with_pareto(rows)] == [True, True, False]


def test_rows_really_run_in_processes_of_their_own(lr_file, tmp_path, monkeypatch):
    """Opened, checked, timed: with the real worker, ours and the machine's peak beside it."""
    small_benchmark.take_their_place(monkeypatch)
    plans = [plan(), plan("zero-fill", lowering=""), plan(GEMM, model="", lowering="")]
    inputs = Inputs(model=X2, slices=lr_file)
    found = measure_rows(plans, lambda _: inputs, tmp_path, budget_s=0.1, profile=True)
    assert [one.failed for one in found] == ["", "", ""]
    assert {group.group for group in found[0].work} >= {"convolution", "fft"}
    assert found[1].work == found[2].work == []
    assert found[0].device_bytes is found[0].engine_bytes is None
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
    found = measure_rows(plans, inputs, tmp_path, budget_s=0.1)
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
    group = RooflineGroup(group="fft", flop=2.0, bytes=4.0, seconds=0.5, peak_share=0.25)
    rows = [
        dataclasses.replace(row(0.95, 10.0), ratio=2.0, roofline=(group,)),
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
    assert float(read[0]["roofline.fft.peak_share"]) == 0.25
    assert BenchRow.from_dict(json.loads(json.dumps(rows[0].to_dict()))) == rows[0]
    assert set(HEADINGS) >= {"times PyTorch", "SSIM", "PSNR to PyTorch"}


def test_columns_that_nothing_fills_are_left_out():
    """Energy and GPU memory where a machine tells them; a terminal has less room than a page."""
    plain = row(0.95, 10.0)
    for text in (markdown([plain]), as_text([plain])):
        assert not any(name in text for name in ONLY_IF_FILLED)
    full = dataclasses.replace(
        plain,
        tissue=Quality(mae=0.02, psnr_db=28.5, ssim=0.9),
        joules_per_slice=1.25,
        device_bytes=3_000_000,
        engine_bytes=4_500_000,
        copies_s=0.002,
        device_s=0.003,
    )
    for text in (markdown([plain, full]), as_text([plain, full])):
        assert all(name in text for name in ONLY_IF_FILLED)
        assert all(figure in text for figure in ("1.25", "4.5", "28.5"))
    page = markdown([plain])
    assert all(name in page for name in ("p90 ms", "p95 ms", "MAE"))
    assert not any(name in as_text([plain]) for name in NOT_IN_A_TERMINAL)


def test_the_command_measures_and_readme_reads_it(tmp_path, monkeypatch):
    """What a user runs, once, small; and the file it writes makes README's table."""
    small_benchmark.take_their_place(monkeypatch)
    file = tmp_path / "rows.json"
    arguments = ["bench", "--model", "x2-fast", "--only", "ort-cpu", "--only", "gemm"]
    arguments += ["--only", "fp32", "--budget", "1", "-o", str(file), "--csv", str(tmp_path / "c")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    stored = json.loads(file.read_text())
    jsonschema.validate(stored, json.loads(SCHEMA_FILE.read_text()))
    ours = next(BenchRow.from_dict(one) for one in stored["rows"] if one["plan"]["lowering"])
    assert ours.status in ("ok", "unstable")
    assert ours.psnr_between_db > 100
    assert ours.quality.psnr_db > 30
    # Peaks and kernels are measured one after the other: between them a busy machine may change.
    assert 0 < ours.fft_share < 1
    assert 0 < ours.peak_share < math.inf
    assert ours.ratio_to == REFERENCE
    convolution, fft = ours.roofline[:2]
    assert (convolution.group, fft.group) == ("convolution", "fft")
    assert ours.flop == pytest.approx(convolution.flop + fft.flop, rel=0.02)
    assert convolution.bound in ("compute", "memory")
    assert all(0 <= group.bandwidth_share < math.inf for group in ours.roofline)
    assert stored["memory_bytes_per_s"] > 1e8
    assert stored["environment"]["threads"]["count"] == 1
    assert stored["environment"]["energy"]["cpu"]
    assert stored["environment"]["end"]["time_s"] > stored["environment"]["start"]["time_s"]
    if stored["stages"] is None:
        assert stored["environment"]["why_no_stages"]
    else:
        names = [one["name"] for one in stored["stages"]["stages"]]
        assert stored["stages"]["bottleneck"] in names
    assert stored["gemm_flop_per_s"]["fp32"] > 1e9
    table = runtimes_table(stored)
    assert table.count("| x2-fast |") == 2
    assert "ort-cpu" in result.output


def test_wrong_answers_are_called_wrong(tmp_path):
    """A fast peer whose transform is wrong must not look like a result."""
    from kspacesr_rt.bench.run.scored_slices import ScoredSlices

    hr = np.random.default_rng(1).random((2, 32, 32), dtype=np.float32)
    paths = [tmp_path / f"{i}.npy" for i in range(2)]
    np.save(paths[0], hr)
    np.save(paths[1], hr[:, ::-1])
    reference = Measured(plan=plan(REFERENCE, lowering=""), times_s=[[1.0]] * 7, result=paths[0])
    peer = Measured(plan=plan("exporter-graph", lowering=""), times_s=[[0.5]] * 7, result=paths[1])
    slices = ScoredSlices(hr=hr, lr=hr[:, ::2, ::2], file=paths[0])
    judge = Scoring(Variants(tmp_path), slices, MachineRates(flop_per_s={}), [reference, peer])
    assert judge.row(peer).status == "wrong"
    assert judge.row(reference).status == "ok"
    assert judge.row(reference).ratio_to == REFERENCE
    np.save(paths[1], np.full_like(hr, np.nan))
    nothing = judge.row(peer)
    assert (nothing.status, nothing.reason) == ("wrong", "values that are not finite")
    assert nothing.quality is None
    json.dumps(nothing.to_dict(), allow_nan=False)
    alone = Scoring(Variants(tmp_path), slices, MachineRates(flop_per_s={}), [reference])
    reference.failed = "no torch"
    np.save(paths[1], hr)
    assert alone.row(peer).reason == "PyTorch fp32 failed: compared with nothing"
    assert alone.row(peer).ratio is None


def test_what_the_machine_can_do_is_the_median_of_every_group():
    """Each group of rows measures the machine again; the GPU's rate is kept apart."""
    from kspacesr_rt.export.machine_peaks import gemm_flop, triad_bytes

    found = [
        Measured(plan=plan(GEMM), times_s=[[1.0], [2.0]]),
        Measured(plan=plan(GEMM), times_s=[[3.0, 9.0, 2.0]]),
        Measured(plan=plan(GEMM, precision="int8"), failed="no kernel"),
        Measured(plan=plan(GEMM_CUDA, precision="fp16"), times_s=[[0.5]]),
        Measured(plan=plan(TRIAD), times_s=[[0.25]]),
    ]
    rates = MachineRates.of(found)
    assert rates.flop_per_s == {
        "fp32": gemm_flop() / 2.0,
        "cuda fp16": gemm_flop(cuda=True) / 0.5,
    }
    assert rates.bytes_per_s == triad_bytes() / 0.25
    assert rates.peak(plan()) == gemm_flop() / 2.0
    assert rates.peak(plan("tensorrt")) is None
    assert rates.peak(plan("tensorrt", precision="fp16")) == rates.flop_per_s["cuda fp16"]
    assert MachineRates.of([]).bytes_per_s is None


def known_within(found):
    return median_uncertainty(ratio_of(found[1], found[0])[1], len(found[1].times_s))


def test_what_is_known_of_a_median_grows_with_the_rounds():
    """Against the scatter of medians that were really drawn, within its own error."""
    rng = np.random.default_rng(0)
    for rounds in (9, 25, 49):
        draws = rng.normal(2.0, 0.1, (4000, rounds))
        half_quartiles = 0.1 * 0.6745
        within = median_uncertainty(half_quartiles, rounds)
        held = np.abs(np.median(draws, axis=1) - 2.0) <= within
        assert held.mean() == pytest.approx(0.95, abs=0.02)


def test_rounds_go_on_until_every_ratio_has_settled(tmp_path, monkeypatch):
    """The stability rule: warm-up visits do not count, then at least seven rounds, then enough."""
    visits = collections.Counter()

    class Still:
        """A row whose calls take ever less time, until they are steady."""

        def __init__(self, one, settles):
            self.plan, self.settles, self.started = one, settles, 0.0

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            """Nothing is open."""

        def ask(self, do, **arguments):
            if do != "time":
                extra = ("copies_s", "device_s")
                return {"load_s": 0.0, **dict.fromkeys((*MEMORY, *extra)), "energy_source": ""}
            visits[self.plan] += 1
            seconds = 1.0 if visits[self.plan] > self.settles else 1.0 + visits[self.plan] % 2
            return {"times_s": [seconds], "energy_j": 4.0}

    settles = {plan(REFERENCE, lowering=""): 0, plan(): 12}
    monkeypatch.setattr(scheduler, "RowProcess", lambda one, _: Still(one, settles[one]))
    found = measure_rows(list(settles), lambda _: None, tmp_path, budget_s=60.0)
    counted = len(found[1].times_s)
    assert visits[plan()] == counted + WARM_UP_VISITS
    assert MIN_ROUNDS < counted < MAX_ROUNDS
    assert known_within(found) <= SETTLED
    assert found[1].joules == [4.0] * counted
    visits.clear()
    settles[plan()] = 10**6
    found = measure_rows(list(settles), lambda _: None, tmp_path, budget_s=60.0)
    assert len(found[1].times_s) == MAX_ROUNDS
    assert known_within(found) > SETTLED
    visits.clear()
    found = measure_rows(list(settles), lambda _: None, tmp_path, budget_s=0.0)
    assert len(found[1].times_s) == MIN_ROUNDS  # never fewer, however small the budget


def test_dear_exports_are_left_out_when_time_is_short():
    """Each row that was not made says so; the cheap ones are made first, whatever the order."""
    now, made = [0.0], []

    class Slow:
        """Exports that take a minute for 8 bits and a second otherwise."""

        def path_for(self, one):
            made.append((one.lowering, one.precision))
            now[0] += 60.0 if one.precision == "int8" else 1.0
            if one.precision == "bf16":
                raise VariantFailed("no kernel")

    rows = [
        plan(lowering=lowering, precision=precision)
        for lowering in ("dynamic", "conv", "gemm")
        for precision in ("int8", "bf16", "fp16")
    ]
    reasons = prepare(rows, Slow(), limit_s=200.0, clock=lambda: now[0])
    # 66 s for the cheap ones and 8 bits with gemm, 60 s for conv; dynamic might take 180 s more.
    assert made[-1] == ("conv", "int8")
    assert set(made[:-1]) == {(row.lowering, row.precision) for row in rows} - {
        ("conv", "int8"),
        ("dynamic", "int8"),
    }
    assert reasons[plan(lowering="dynamic", precision="int8")].startswith("not exported: 8 bits")
    assert reasons[plan(precision="bf16")] == "no kernel"
    assert plan(lowering="conv", precision="int8") not in reasons
    made.clear()
    assert len(prepare(rows, Slow(), limit_s=None, clock=lambda: now[0])) == 3  # bf16
    assert len(made) == len(rows)
    assert time_for(300.0) == 240.0
    assert time_for(1.0) == 60.0


def test_a_row_that_cannot_run_here_is_not_prepared(monkeypatch):
    """Exports for a GPU that is not there would only take time."""
    monkeypatch.setattr(plans, "why_no_gpu", lambda: "no GPU")
    row = plan(GPU_REFERENCE, lowering="")
    assert prepare([row], None, limit_s=None) == {row: "no GPU"}
