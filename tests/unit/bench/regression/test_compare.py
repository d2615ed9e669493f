"""Two results side by side: what compares is compared, what does not is said."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from typer.testing import CliRunner

from kspacesr_rt.bench.regression.compare import compare_results
from kspacesr_rt.bench.regression.compare_report import as_dict, as_markdown, as_text
from kspacesr_rt.bench.run.benchmark import BenchResult
from kspacesr_rt.bench.run.plans import REFERENCE, RowPlan
from kspacesr_rt.bench.run.rows import FAILED, OK, WRONG, BenchRow, Latency
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError, RegressionError
from kspacesr_rt.quality.metrics import Quality

STORED = ROOT / "bench" / "results" / "runtimes.json"
MACHINE = {
    "date": "2026-01-01",
    "cpu": "A CPU",
    "cores": 2,
    "system": "Linux x86_64",
    "python": "3.12.0",
    "packages": {"torch": "2.13.0", "onnxruntime": "1.32.0"},
    "commit": "abc1234",
}


def row(contestant="ort-cpu", *, ratio=2.0, spread=0.02, rounds=16, p50=0.03, **changes):
    plan = {
        "contestant": contestant,
        "model": "x2-fast",
        "lowering": changes.pop("lowering", "gemm" if contestant != REFERENCE else ""),
        "precision": changes.pop("precision", "fp32"),
        "threads": changes.pop("threads", 1),
    }
    values = {
        "status": OK,
        "latency": Latency(p50_s=p50, p90_s=p50, p95_s=p50, p99_s=p50, calls=99, rounds=rounds),
        "ratio": ratio,
        "ratio_spread": spread,
        "psnr_between_db": 136.0,
        "quality": Quality(mae=0.01, psnr_db=36.8, ssim=0.95),
    }
    return BenchRow(plan=RowPlan(**plan), **{**values, **changes})


def result(*rows, data="4 slices of the shipped sample", **machine):
    made = BenchResult(
        rows=(row(REFERENCE, ratio=1.0, spread=0.0, p50=0.06), *rows),
        peaks={"fp32": 1e11},
        environment={**MACHINE, **machine},
        data=data,
    )
    return json.loads(json.dumps(made.to_dict()))


def compared(before, after, **machine):
    return compare_results(result(before), result(after, **machine))


def pair_of(comparison):
    return next(pair for pair in comparison.pairs if not pair.after.plan.is_reference)


def failed(reason="no such kernel"):
    nothing = dict.fromkeys(
        ("latency", "ratio", "ratio_spread", "quality", "psnr_between_db"), None
    )
    return dataclasses.replace(row(), status=FAILED, reason=reason, **nothing)


def test_a_result_beside_itself_shows_no_difference():
    """On the result that README quotes, with peers, refusals and 8 bits."""
    stored = json.loads(STORED.read_text())
    comparison = compare_results(stored, stored)
    assert len(comparison.pairs) == len(stored["rows"])
    assert comparison.differences == {}
    assert all(pair.quotient in (None, 1.0) for pair in comparison.pairs)
    comparison.require_no_regression()


@pytest.mark.parametrize(
    ("after", "speed"),
    [
        (row(ratio=2.0), "ok"),
        (row(ratio=3.0), "ok"),
        (row(ratio=1.7), "ok"),
        (row(ratio=1.2), "slower"),
        (row(ratio=1.6), "undecided"),
        (row(ratio=1.4, spread=0.5), "undecided"),
        (row(ratio=1.4, spread=0.5, rounds=900), "slower"),
    ],
)
def test_speed_is_judged_by_its_interval(after, speed):
    """A fifth less is slower only if the whole interval of the quotient says so."""
    pair = pair_of(compared(row(), after))
    assert pair.speed == speed
    assert pair.quotient == pytest.approx(after.ratio / 2.0)


def test_the_interval_holds_the_true_quotient_about_as_often_as_it_says():
    """Simulated: two runs of normal ratios, spread and median as the benchmark takes them."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        sides = []
        for truth in (2.0, 2.4):
            low, middle, high = np.percentile(random.normal(truth, 0.1, 21), [25, 50, 75])
            sides.append(row(ratio=middle, spread=(high - low) / (2 * middle), rounds=21))
        pair = pair_of(compared(*sides))
        held += abs(pair.quotient / 1.2 - 1) <= pair.uncertainty
    assert 0.87 <= held / 400 <= 0.99


@pytest.mark.parametrize(
    ("after", "word"),
    [
        (row(ratio=9.0, quality=Quality(mae=0.01, psnr_db=36.7, ssim=0.95)), "PSNR"),
        (row(ratio=9.0, quality=Quality(mae=0.01, psnr_db=36.8, ssim=0.94)), "SSIM"),
        (row(ratio=9.0, quality=Quality(mae=0.02, psnr_db=36.8, ssim=0.95)), "MAE"),
        (row(ratio=9.0, psnr_between_db=70.0), "70.0 dB against PyTorch"),
        (row(ratio=9.0, status=WRONG, reason="20 dB"), "wrong: 20 dB"),
        (failed(), "failed: no such kernel"),
    ],
)
def test_faster_and_worse_is_worse(after, word):
    comparison = compared(row(), after)
    assert word in " ".join(pair_of(comparison).problems)
    with pytest.raises(RegressionError, match="x2-fast ort-cpu gemm fp32 batch 1, 1 thread"):
        comparison.require_no_regression()


def test_the_tier_is_that_of_the_precision():
    less = Quality(mae=0.01, psnr_db=36.72, ssim=0.95)
    assert pair_of(compared(row(), row(quality=less))).problems
    eight = {"precision": "int8", "psnr_between_db": 57.0}
    assert not pair_of(compared(row(**eight), row(**eight, quality=less))).problems


def test_ratios_to_other_references_are_not_compared():
    """PyTorch on a GPU is another yardstick; a result that does not say it used the CPU's."""
    on_gpu = row(ratio=0.5, ratio_to="torch-cuda")
    assert pair_of(compared(row(), on_gpu)).quotient is None
    assert pair_of(compared(row(), row(ratio_to=REFERENCE))).quotient == 1.0


def test_what_failed_before_may_fail_again():
    """A refusal that stands in both is no regression, and one that went is none either."""
    assert not compared(failed(), failed()).regressions
    assert not compared(failed(), row()).regressions


def test_another_machine_is_said_on_top_and_speed_is_not_judged():
    """A laptop is no regression of a server; its quality would be."""
    comparison = compared(row(), row(ratio=0.5), cpu="Another CPU", commit="def5678")
    assert pair_of(comparison).speed == "not compared"
    comparison.require_no_regression()
    text = as_text(comparison)
    assert "cpu: A CPU -> Another CPU" in text
    assert "commit: abc1234 -> def5678" in text
    assert "warning: the machines differ: milliseconds do not compare" in text
    assert text.index("cpu: A CPU") < text.index("x PyTorch A")
    worse = row(quality=Quality(mae=0.01, psnr_db=30.0, ssim=0.95))
    assert compared(row(), worse, cpu="Another CPU").regressions


@pytest.mark.parametrize(
    "machine", [{"cores": 4}, {"gpu": {"name": "NVIDIA L4"}}, {"system": "Linux aarch64"}]
)
def test_parts_that_make_another_machine(machine):
    assert not compared(row(), row(), **machine).same_machine


def test_versions_commit_and_threads_are_told_but_make_no_other_machine():
    packages = {**MACHINE["packages"], "onnxruntime": "1.33.0", "openvino": "2026.4"}
    comparison = compare_results(
        result(row()), result(row(threads=2), packages=packages, commit="1")
    )
    assert comparison.same_machine
    assert comparison.differences["onnxruntime"] == ("1.32.0", "1.33.0")
    assert comparison.differences["openvino"] == ("none", "2026.4")
    assert comparison.differences["threads"] == ("1", "1, 2")
    assert [one.plan.threads for one in comparison.only_after] == [2]


def test_other_data_is_judged_by_nothing():
    comparison = compare_results(
        result(row()),
        result(row(ratio=0.1, quality=Quality(mae=1.0, psnr_db=1.0, ssim=0.0)), data="others"),
    )
    assert not comparison.regressions
    assert "neither quality nor speed is judged" in as_text(comparison)


def test_rows_of_one_side_are_listed():
    comparison = compare_results(result(row()), result(row("openvino")))
    text = as_text(comparison)
    assert "only in A: x2-fast ort-cpu gemm fp32 batch 1, 1 thread" in text
    assert "only in B: x2-fast openvino gemm fp32 batch 1, 1 thread" in text


def test_nothing_in_common_proves_nothing():
    other = result(row())
    for one in other["rows"]:
        one["plan"]["model"] = "x4-fast"
    with pytest.raises(RegressionError, match="no row in common"):
        compare_results(result(row()), other).require_no_regression()


def test_two_rows_of_one_name_are_refused():
    with pytest.raises(InputError, match="second result has two rows"):
        compare_results(result(row()), result(row(), row()))


def test_markdown_keeps_its_columns():
    """Whatever a runtime's message holds."""
    page = as_markdown(compared(row(), failed("a | b\n<script>")))
    table = [line for line in page.splitlines() if line.startswith("| x2-fast")]
    assert len(table) == 2
    assert "<script>" not in page
    heads = next(line for line in page.splitlines() if line.startswith("| row"))
    assert all(line.replace("\\|", "").count("|") == heads.count("|") for line in table)


@pytest.fixture
def files(tmp_path):
    """Write two results; the second is slower."""
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, ratio in zip(paths, (2.0, 1.0), strict=True):
        path.write_text(json.dumps(result(row(ratio=ratio))))
    return [str(path) for path in paths]


def test_the_command_reports_and_fails_only_if_told_to(files, tmp_path):
    run = CliRunner()
    page = tmp_path / "page.md"
    told = run.invoke(app, ["bench", "compare", *files, "--md", str(page)])
    assert told.exit_code == 0, told.output
    assert "SLOWER" in told.output
    assert "0.50 times as fast" in page.read_text()
    gated = run.invoke(app, ["bench", "compare", *files, "--fail-on-regression", "--json"])
    assert gated.exit_code == 4
    assert "error: rows got slower or worse: x2-fast ort-cpu gemm fp32" in gated.stderr
    read = json.loads(gated.stdout)
    assert read["regressions"] == ["x2-fast ort-cpu gemm fp32 batch 1, 1 thread"]
    assert read == as_dict(compare_results(*(json.loads(Path(one).read_text()) for one in files)))
    back = run.invoke(app, ["bench", "compare", *reversed(files), "--fail-on-regression", "-q"])
    assert (back.exit_code, back.stdout) == (0, "")


def test_other_files_are_refused(files, tmp_path):
    other = tmp_path / "other.json"
    other.write_text("{}")
    refused = CliRunner().invoke(app, ["bench", "compare", files[0], str(other)])
    assert refused.exit_code == 2
    assert "other.json is no result" in refused.stderr


def test_options_of_bench_do_not_get_lost_in_front_of_its_commands(files):
    """`bench --threads 4 compare A B` would compare as if nothing had been said."""
    refused = CliRunner().invoke(app, ["bench", "--threads", "4", "compare", *files])
    assert refused.exit_code == 2
    assert "'bench compare' does not take --threads" in refused.stderr
    refused = CliRunner().invoke(app, ["bench", "--suite", "--csv", "x.csv"])
    assert refused.exit_code == 2
    assert "--csv" in refused.stderr
