"""The regression gate: it fails for what got slower or worse, and for nothing else."""

import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from repository import SUPPORT
from typer.testing import CliRunner

from kspacesr_rt.bench.regression import gate
from kspacesr_rt.bench.regression.baseline import (
    Baseline,
    BaselineMachine,
    BaselineRatio,
    machine_class,
)
from kspacesr_rt.bench.regression.gate_profile import Comparison, profile
from kspacesr_rt.bench.regression.gate_report import NOT_GATED, GateReport, GateRow
from kspacesr_rt.bench.regression.rules import parity_loss, quality_losses, speed_line
from kspacesr_rt.bench.regression.sequential import (
    CONFIDENCE,
    FINE,
    LOOK_CONFIDENCE,
    LOOKS,
    SLOWER,
    UNDECIDED,
    median_interval,
    verdict,
)
from kspacesr_rt.bench.run import scheduler, worker
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError, RegressionError
from kspacesr_rt.quality.metrics import Quality
from kspacesr_rt.system import cpu_wait

PLANTED = SUPPORT / "planted_worker.py"
SHORT = tuple(one for one in profile() if one.name in ("ort-cpu gemm fp32", "zero-fill"))
"""Enough to plant a fault in one and not in the other."""
SHORT_VISIT_S = 0.05
GOOD = Quality(mae=0.01, psnr_db=36.0, ssim=0.95)


# --- deciding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [7, 8, 11, 24])
def test_the_interval_of_a_median_covers_it_as_often_as_it_says(n):
    """Of skewed draws too; the true median of a log-normal around 1 is 1."""
    draw = random.Random(n)
    held = 0
    for _ in range(2000):
        low, high = median_interval([draw.lognormvariate(0, 0.5) for _ in range(n)], 0.9)
        held += low <= 1.0 <= high
    assert held / 2000 >= 0.9 - 0.02


def test_the_interval_is_the_narrowest_that_does():
    """Counted over all 2**n ways in which draws lie below or above the median."""
    for n, confidence in itertools.product((6, 9, 12), (0.8, 0.95)):
        low, high = median_interval(list(range(n)), confidence)
        below = [sum(sides) for sides in itertools.product((0, 1), repeat=n)]

        def coverage(k, below=below, n=n):
            return np.mean([k <= count <= n - k for count in below])

        if low == -np.inf:
            assert coverage(1) < confidence
            continue
        k = int(low) + 1
        assert high == n - k
        assert coverage(k) >= confidence > coverage(k + 1)


def test_too_few_rounds_hold_no_interval():
    assert median_interval([1.0] * 7, LOOK_CONFIDENCE) == (-np.inf, np.inf)
    assert median_interval([1.0] * LOOKS[0], LOOK_CONFIDENCE) == (1.0, 1.0)
    assert verdict([0.1] * (LOOKS[0] - 1), 0.8) == UNDECIDED


def test_one_disturbed_round_decides_nothing():
    """A neighbour that takes the machine for a round is no regression, and hides none."""
    assert verdict([1.0, 1.0, 0.01] + [1.0] * 5, 0.8) == UNDECIDED
    assert verdict([1.0, 1.0, 0.01] + [1.0] * 13, 0.8) == FINE
    assert verdict([0.5, 0.5, 9.0] + [0.5] * 13, 0.8) == SLOWER


def test_rounds_behind_the_last_look_do_not_count():
    """Looking after every round would find what it wants in the end."""
    assert verdict([1.0, 0.7] * 4 + [1.0] * 7, 0.8) == UNDECIDED


def verdicts(median, spread, runs=400):
    draw = random.Random(0)
    return [
        verdict([median * draw.lognormvariate(0, spread) for _ in range(LOOKS[-1])], 0.8)
        for _ in range(runs)
    ]


def test_false_alarms_are_rare_and_losses_are_found():
    """With 15 % of spread from round to round, worse than two busy cores show."""
    assert verdicts(1.0, 0.15).count(SLOWER) == 0
    assert verdicts(0.95, 0.15).count(SLOWER) == 0
    assert verdicts(0.8, 0.15).count(SLOWER) <= (1 - CONFIDENCE) * 400
    assert verdicts(0.6, 0.15).count(SLOWER) >= 395
    assert verdicts(0.6, 0.15).count(FINE) == 0


def test_quality_is_judged_by_the_tier_of_its_precision():
    """0.02 dB is a loss for fp32, noise for bf16; better is never worse."""
    lower = dataclasses.replace(GOOD, psnr_db=35.98)
    assert "PSNR" in quality_losses(GOOD, lower, "fp32")[0]
    assert quality_losses(GOOD, lower, "bf16") == ()
    assert quality_losses(lower, GOOD, "fp32") == ()
    assert len(quality_losses(GOOD, Quality(mae=0.011, psnr_db=30.0, ssim=0.9), "int8")) == 3
    assert quality_losses(GOOD, dataclasses.replace(GOOD, psnr_db=np.nan), "int8")
    assert quality_losses(GOOD, dataclasses.replace(GOOD, ssim=0.9498), "fp32")
    assert quality_losses(GOOD, dataclasses.replace(GOOD, mae=0.01002), "fp32")


def test_parity_is_judged_by_its_precision():
    assert parity_loss(99.0, "fp32")
    assert parity_loss(None, "fp32")
    assert not parity_loss(99.0, "fp16")
    assert not parity_loss(999.0, "fp32")


# --- the report and the file ----------------------------------------------------------------------


def report(*rows):
    return GateReport(rows=rows, machine="a CPU", environment={}, warnings=(), seconds=1.0)


def gate_row(speed, **changes):
    return GateRow(name="ort-cpu gemm fp32", against="torch-eager", speed=speed, **changes)


def test_the_undecided_is_named_and_fails_nothing():
    found = report(gate_row(UNDECIDED, ratio=1.0, low=-np.inf, high=np.inf))
    found.require_passed()
    assert "undecided, not passed: ort-cpu gemm fp32" in found.as_text()
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["undecided"] == ["ort-cpu gemm fp32"]
    assert written["passed"] is True


def test_a_failure_names_the_row_and_says_what_to_do():
    found = report(gate_row(SLOWER, ratio=1.0, before=2.0), gate_row(FINE))
    with pytest.raises(RegressionError, match=r"fp32: 1\.00 times torch-eager, 2\.00") as caught:
        found.require_passed()
    assert caught.value.exit_code == 4
    assert "--update" in caught.value.hint
    with pytest.raises(RegressionError, match="PSNR fell"):
        report(gate_row(FINE, problems=("PSNR fell",))).require_passed()
    assert "FAILED" in found.as_text().upper()


def make_baseline(**ratios):
    machine = BaselineMachine(
        environment={"packages": {"torch": "0"}},
        ratios={
            name: BaselineRatio(ratio=ratio, low=ratio, high=ratio, rounds=8)
            for name, ratio in ratios.items()
        },
    )
    return Baseline(
        model="x2-fast",
        weights_sha256="0",
        data="none",
        quality={"zero-fill": GOOD},
        machines={"another CPU": machine},
    )


def test_a_baseline_survives_its_file(tmp_path):
    baseline = make_baseline(**{"zero-fill": 2.0})
    path = tmp_path / "baseline.json"
    path.write_text(baseline.to_json())
    assert Baseline.read(path) == baseline


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: text.replace('"schema": 1', '"schema": 9'),
        lambda text: text.replace('"ratio": 2.0', '"ratio": 0.0'),
        lambda text: text.replace('"ratio": 2.0', '"ratio": NaN'),
        lambda text: text.replace('"ratio": 2.0', '"ratio": "2"'),
        lambda text: text.replace('"ssim"', '"smis"'),
        lambda text: text.replace('"machines"', '"machine"'),
    ],
)
def test_a_damaged_baseline_is_refused(tmp_path, damage):
    """A gate that compares with nothing would always pass."""
    path = tmp_path / "baseline.json"
    whole = make_baseline(**{"zero-fill": 2.0}).to_json()
    assert damage(whole) != whole
    path.write_text(damage(whole))
    with pytest.raises(InputError, match=r"baseline\.json") as caught:
        Baseline.read(path)
    assert "--update" in caught.value.hint


def test_the_committed_baseline_has_every_contest():
    """And was measured with the model that is shipped."""
    from kspacesr_rt.model.file import load_model, shipped_models

    baseline = Baseline.read(gate.BASELINE)
    names = {one.name for one in profile()}
    assert all(set(one.ratios) == names for one in baseline.machines.values())
    assert set(baseline.quality) == names - {"FFT layers alone, gemm"}
    spec = load_model(shipped_models()[baseline.model]).spec
    assert baseline.weights_sha256 == spec.provenance.weights_sha256
    assert speed_line(1.0) == pytest.approx(0.8)


# --- a call's own time ----------------------------------------------------------------------------


def spin(seconds):
    """Use a core for so much processor time, however long that takes."""
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass


@pytest.mark.skipif(cpu_wait.queued_s() is None, reason="this system counts no waiting for cores")
@pytest.mark.alone
def test_waiting_for_a_core_is_no_part_of_a_call(tmp_path):
    """Three neighbours on one core: a call takes four times as long, and its own time stays."""
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    neighbours = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    allowed = os.sched_getaffinity(0)
    made = worker.Worker(SHORT[0].plan, tmp_path, np.zeros((1, 8, 8), np.float32))
    made._run = lambda batch: spin(0.05)
    try:
        os.sched_setaffinity(0, {core})
        disturbed = made.time(0.5)["times_s"]
        own = made.time(0.5, own=True)["times_s"]
    finally:
        os.sched_setaffinity(0, allowed)
        for one in neighbours:
            one.kill()
            one.wait()
    assert np.median(disturbed) > 0.1
    assert 0.04 < np.median(own) < 0.75 * np.median(disturbed)


@pytest.mark.alone
def test_sleeping_is_part_of_a_call(tmp_path):
    """A lock or a sleep that crept in is a regression: processor time would not show it."""
    made = worker.Worker(SHORT[0].plan, tmp_path, np.zeros((1, 8, 8), np.float32))
    made._run = lambda batch: time.sleep(0.03)
    assert min(made.time(0.1, own=True)["times_s"]) >= 0.03


def test_where_nobody_counts_calls_take_what_the_clock_says(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu_wait, "TASKS", tmp_path / "missing")
    assert cpu_wait.queued_s() is None
    made = worker.Worker(SHORT[0].plan, tmp_path, np.zeros((1, 8, 8), np.float32))
    made._run = lambda batch: spin(0.01)
    assert min(made.time(0.05, own=True)["times_s"]) >= 0.009


# --- with real processes --------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def short_visits(monkeypatch):
    """Time one call of PyTorch a visit rather than four: the faults planted here are large."""
    monkeypatch.setattr(scheduler, "VISIT_S", SHORT_VISIT_S)


@pytest.fixture
def one_round(monkeypatch):
    """Time each row once: for what does not depend on speed."""
    monkeypatch.setattr(scheduler, "WARM_UP_VISITS", 0)
    monkeypatch.setattr(scheduler, "MAX_ROUNDS", 1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measure a baseline of this machine, of two comparisons, in fewer rounds than the real one."""
    path = tmp_path_factory.mktemp("gate") / "baseline.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "VISIT_S", SHORT_VISIT_S)
        patch.setattr(gate, "UPDATE_ROUNDS", 8)
        patch.setattr(gate, "UPDATE_SETS", 1)
        lines = gate.update_baseline(gate.GateOptions(baseline=path, comparisons=SHORT))
    assert any("ort-cpu gemm fp32" in line for line in lines)
    return path


@pytest.fixture
def planted(monkeypatch):
    """Give a row's process a fault, which shows in short visits, too."""

    def plant(row, fault):
        monkeypatch.setattr(scheduler, "VISIT_S", SHORT_VISIT_S)
        monkeypatch.setattr(scheduler, "WORKER", (str(PLANTED),))
        monkeypatch.setenv("PLANTED_ROW", row)
        monkeypatch.setenv("PLANTED_FAULT", fault)

    return plant


def by_name(found):
    return {row.name: row for row in found.rows}


@pytest.mark.alone
def test_nothing_planted_fails_nothing(measured):
    """The same code on the same machine, however busy that is."""
    found = gate.gate(gate.GateOptions(baseline=measured, comparisons=SHORT))
    found.require_passed()
    rows = by_name(found)
    assert rows["ort-cpu gemm fp32"].psnr_between_db > 100
    assert rows["ort-cpu gemm fp32"].quality.psnr_db > rows["zero-fill"].quality.psnr_db
    assert found.machine == machine_class(1)


@pytest.mark.alone
def test_a_planted_sleep_fails(measured, planted):
    """A third of the speed: beyond the line on any machine, in both sets of processes."""
    planted("ort-cpu gemm", "sleep")
    found = gate.gate(gate.GateOptions(baseline=measured, comparisons=SHORT))
    rows = by_name(found)
    assert rows["ort-cpu gemm fp32"].speed == SLOWER, found.as_text()
    assert rows["ort-cpu gemm fp32"].note == "again in fresh processes"
    assert not rows["ort-cpu gemm fp32"].problems
    assert not rows["zero-fill"].failed
    with pytest.raises(RegressionError, match="ort-cpu gemm fp32"):
        found.require_passed()


@pytest.mark.alone
def test_a_planted_blur_fails_though_it_is_faster(measured, planted):
    planted("ort-cpu gemm", "blur")
    row = by_name(gate.gate(gate.GateOptions(baseline=measured, comparisons=SHORT)))[
        "ort-cpu gemm fp32"
    ]
    assert row.ratio > 10 * row.before
    assert row.speed == FINE
    assert row.failed
    assert any(one.startswith("PSNR is worse") and "baseline" in one for one in row.problems)
    assert any("PyTorch in this run" in one for one in row.problems)


@pytest.mark.usefixtures("one_round")
def test_a_blurred_baseline_method_fails_too(measured, planted):
    """Zero-fill has no PyTorch to agree with: the stored quality alone holds it."""
    planted("zero-fill", "blur")
    row = by_name(gate.gate(gate.GateOptions(baseline=measured, comparisons=SHORT)))["zero-fill"]
    assert row.problems
    assert all("baseline" in one for one in row.problems)


@pytest.mark.usefixtures("one_round")
def test_an_unknown_machine_gates_quality_and_says_that_speed_is_not(
    measured, tmp_path, planted, monkeypatch
):
    """On another CPU a ratio means nothing, a wrong result still does."""
    other = tmp_path / "baseline.json"
    values = json.loads(measured.read_text())
    values["machines"] = {"another CPU, 1 thread": next(iter(values["machines"].values()))}
    other.write_text(json.dumps(values))
    planted("ort-cpu gemm", "noise")
    monkeypatch.setattr("kspacesr_rt.bench.regression.gate.profile", lambda threads: SHORT)
    result = CliRunner().invoke(app, ["bench", "gate", "--baseline", str(other)])
    assert result.exit_code == 4, result.output
    assert "dB against PyTorch fp32, 100 dB are required" in result.output
    assert "speed is not gated: the baseline knows no machine like this" in result.output
    assert result.output.count("speed not gated") == len(SHORT)


@pytest.mark.usefixtures("one_round")
def test_what_does_not_run_fails(measured):
    """A backend that went missing is a regression of its row, not a row fewer."""
    lost = dataclasses.replace(SHORT[0].plan, contestant="ort-cuda")
    comparison = Comparison(name=SHORT[0].name, plan=lost, against=SHORT[0].against)
    found = gate.gate(gate.GateOptions(baseline=measured, comparisons=(comparison,)))
    assert "did not run" in found.failed[0].problems[0]


@pytest.mark.usefixtures("one_round")
def test_no_baseline_is_taken_from_a_wrong_result(tmp_path, planted, monkeypatch):
    planted("ort-cpu gemm", "noise")
    monkeypatch.setattr(gate, "UPDATE_SETS", 1)
    path = tmp_path / "baseline.json"
    with pytest.raises(RegressionError, match="no baseline is taken"):
        gate.update_baseline(gate.GateOptions(baseline=path, comparisons=SHORT[:1]))
    assert not path.exists()


@pytest.mark.usefixtures("one_round")
def test_other_weights_and_versions_are_said(measured, tmp_path):
    """The figures are compared all the same; the reader must know why they may differ."""
    values = json.loads(measured.read_text())
    values["weights_sha256"] = "0"
    for one in values["machines"].values():
        one["environment"]["packages"]["onnxruntime"] = "1.0"
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(values))
    found = gate.gate(gate.GateOptions(baseline=path, comparisons=SHORT[1:]))
    told = " ".join(found.warnings)
    assert "weights of x2-fast are not those" in told
    assert "onnxruntime 1.0 -> " in told


@pytest.mark.usefixtures("one_round")
def test_a_contest_the_baseline_lacks_is_not_gated(measured):
    comparison = dataclasses.replace(SHORT[1], name="zero-fill, renamed")
    found = gate.gate(gate.GateOptions(baseline=measured, comparisons=(comparison,)))
    assert found.rows[0].speed == NOT_GATED
    assert "not gated for zero-fill, renamed" in " ".join(found.warnings)
