"""`bench --profile smoke` to its end, on a GPU whose kernels do nothing."""

from __future__ import annotations

import json


def test_smoke_runs_to_its_end_and_proves_no_number(machine, tmp_path):
    """Everything is asked; what needs a GPU that computes says that it is not proved: exit 4."""
    output = tmp_path / "smoke.json"
    done = machine.cli(
        *("bench", "--profile", "smoke", "--json", "-o", output), NAME="NVIDIA H100 80GB HBM3"
    )
    assert done.returncode == 4, done.stderr[-2000:]
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert json.loads(output.read_text())["checks"] == checks
    outcomes = {check["check"]: check["outcome"] for check in checks}
    assert [name for name, outcome in outcomes.items() if outcome == "passed"] == [
        *("machine", "backends")
    ]
    assert [name for name, outcome in outcomes.items() if outcome == "failed"] == [
        "the GPU computes"
    ]
    assert sum(name.startswith("known answer of ") for name in outcomes) == 10
    assert set(outcomes.values()) == {"passed", "failed", "not proved"}
    timed = next(check for check in checks if check["check"].startswith("times of x2-fast"))
    assert {"whole_p50_us", "device_p50_us", "copies_us", "fft_share", "estimate_us"} <= timed[
        "measured"
    ].keys()
    assert checks[0]["measured"]["data_sheet"] == "H100"
    assert all(check["limit"] for check in checks)
    assert "1 of 20 checks failed: the GPU computes" in done.stderr


def test_a_gpu_that_is_lost_is_not_asked_again(machine, tmp_path):
    """The rows after it said that ONNX Runtime cannot run these models."""
    done = machine.cli("bench", "--profile", "smoke", "--json", LOST_AFTER=300)
    assert done.returncode == 4, done.stderr[-2000:]
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    of_gpu = [check for check in checks if check["reason"].startswith("the GPU failed ")]
    lost, *after = of_gpu
    assert lost["outcome"] == "failed"
    assert "CUDA failure 719" in lost["reason"]
    assert after == checks[checks.index(lost) + 1 :]
    for check in after:
        assert check["outcome"] == "not proved"
        assert check["reason"] == (f"the GPU failed in '{lost['check']}', and was not asked again")
