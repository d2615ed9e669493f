"""A first run on a GPU: outcomes, the file after each check, and numerics that can fail."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from kspacesr_rt.bench.run import smoke_checks
from kspacesr_rt.bench.run.rows import milliseconds
from kspacesr_rt.bench.run.smoke import (
    Check,
    CheckFailed,
    NotProved,
    SmokeReport,
    run_checks,
)
from kspacesr_rt.bench.run.smoke_checks import ON_ANY_GPU, ORDER, SmokeChecks, choose_gpu_backend
from kspacesr_rt.cli import app
from kspacesr_rt.errors import BackendUnavailableError, InputError, RegressionError
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.runtime.backends import BACKENDS, BatchResult, open_backend
from kspacesr_rt.runtime.ort_overlap import SUMS_DIFFER
from kspacesr_rt.system.gpu_models import find_gpu_model, known_part
from kspacesr_rt.system.vulkan import Adapter


def raising(error):
    def run():
        raise error

    return run


CHECKS = (
    Check("good", "> 0", lambda: {"found": np.float32(2.5), "bad": float("inf")}),
    Check("bad", "> 0", raising(CheckFailed("it is -1", found=-1))),
    Check("unknown", "> 0", raising(NotProved("nobody knows", found=0.0))),
    Check("refused", "> 0", raising(BackendUnavailableError("no library"))),
    Check("strange", "> 0", raising(RuntimeError("words ; hostname=ward7\nof a driver"))),
)


def test_every_check_has_its_outcome(tmp_path):
    """None ends the others, whatever it meets on a machine that nobody has seen."""
    output, seen = tmp_path / "smoke.json", []

    def look(result):
        seen.append(len(json.loads(output.read_text())["checks"]))

    report = run_checks(iter(CHECKS), SmokeReport("ort-cuda"), output=output, on_check=look)
    assert seen == [1, 2, 3, 4, 5]  # written after each
    assert [one.outcome for one in report.results] == [
        *("passed", "failed", "not proved", "failed", "failed")
    ]
    assert [one.reason for one in report.results] == [
        *("", "it is -1", "nobody knows", "no library", "RuntimeError: words")
    ]
    stored = json.loads(output.read_text())
    assert stored["checks"][0]["measured"] == {"found": 2.5, "bad": None}
    assert stored["checks"][2]["measured"] == {"found": 0.0}
    assert (stored["passed"], stored["failed"], stored["not proved"]) == (1, 3, 1)
    with pytest.raises(
        RegressionError, match="3 of 5 checks failed: bad, refused, strange"
    ) as caught:
        report.require_passed()
    assert caught.value.exit_code == 4
    run_checks(iter(CHECKS[:1]), SmokeReport("ort-cuda")).require_passed()


def test_a_check_begins_only_while_there_is_time():
    """What costs a machine by the minute must end; the rest says that it was not reached."""
    report = run_checks(iter(CHECKS), SmokeReport("ort-cuda"), budget_s=-1.0)
    assert {one.outcome for one in report.results} == {"no time left"}
    report.require_passed()


@pytest.fixture
def checks():
    """Return the checks of a backend that is on every machine."""
    found = SmokeChecks("ort-cpu")
    found._computes = True
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_known_answer_is_compared(checks, monkeypatch, precision):
    """What is right passes, and one in a thousand is not right."""
    found = checks._known_answer("x2-fast", precision)
    assert found["psnr_db"] > (100.0 if precision == "fp32" else 65.0)
    real = smoke_checks.verify_model

    def spoiled(model, backend):
        answer = model.known_answer()
        answer.sr[:] *= np.float32(1.02)
        monkeypatch.setattr(type(model), "known_answer", lambda self: answer)
        return real(model, backend)

    monkeypatch.setattr(smoke_checks, "verify_model", spoiled)
    with pytest.raises(CheckFailed, match=r"only \d+\.\d dB"):
        checks._known_answer("x2-fast", precision)


def test_a_gpu_that_computes_nothing_proves_nothing(checks, monkeypatch):
    """Zeros agree with zeros, and kernels that do nothing are fast."""

    class Zeros:
        transfer_s = 0.0

        def __init__(self, name, model, options=None):
            self.spec = model.spec

        def run(self, batch):
            return np.zeros((len(batch), 1, *self.spec.sr_matrix(self.spec.matrix)), np.float32)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            return None

    monkeypatch.setattr(smoke_checks, "open_backend", Zeros)
    checks._computes = None
    with pytest.raises(CheckFailed, match="every sample is 0"):
        checks._any_result()
    for check in (checks._agreement, checks._sample):
        with pytest.raises(NotProved, match="has not been seen to compute"):
            check()


class Overlapping:
    """A backend of this machine that starts batches; `harm` is done to the results of those."""

    start_notes = ()
    harm = staticmethod(lambda number, slices: slices)

    def __init__(self, opened):
        self._opened, self.spec, self.transfer_s = opened, opened.spec, 0.0
        self.notes = self.start_notes
        self.run, self.most, self._under_way, self._n = opened.run, 0, 0, 0

    def start(self, batch):
        self._under_way += 1
        self._n += 1
        self.most = max(self.most, self._under_way)
        return SimpleNamespace(done=lambda: False, result=partial(self._result, self._n, batch))

    def _result(self, number, batch):
        self._under_way -= 1
        return BatchResult(slices=self.harm(number, self._opened.run(batch)))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._opened.__exit__(*exc)


@pytest.fixture
def overlapping(checks, monkeypatch):
    """Let the checks' backend overlap batches; return the backends that were opened."""
    opened, real = [], smoke_checks.open_backend

    def open_overlapping(name, model, options=None):
        opened.append(Overlapping(real(name, model)))
        return opened[-1]

    monkeypatch.setattr(smoke_checks, "open_backend", open_overlapping)
    monkeypatch.setattr(smoke_checks, "TIMED_MATRIX", (16, 16))
    return opened


def test_batches_that_overlap_are_compared_and_timed(checks, overlapping, monkeypatch):
    """The first run on a GPU is to show that copies beside computing change nothing."""
    assert checks._agreement()["largest_difference"] < smoke_checks.AGREEMENT
    assert {one.most for one in overlapping} == {2}
    monkeypatch.setattr(smoke_checks, "TIMED_S", 0.0)
    bound = bind(load_model(resolve_model("x2-fast", upscale=None)), (16, 16))
    with smoke_checks.open_backend("ort-cpu", bound) as opened:
        assert len(smoke_checks._overlapped_times(opened, np.ones((1, 1, 16, 16), "f"))) == 5
        assert opened.most == 2
    with open_backend("ort-cpu", bound) as opened:
        assert smoke_checks._overlapped_times(opened, np.ones((1, 1, 16, 16), "f")) is None
    monkeypatch.setattr(
        Overlapping,
        "harm",
        staticmethod(lambda number, slices: slices[::-1] if number == 3 else slices),
    )
    with pytest.raises(CheckFailed, match="they differ by"):
        checks._agreement()


def test_sums_that_are_not_numpys_fail_the_first_run(checks, overlapping, monkeypatch):
    """A run goes on without them; who tries a GPU is to know."""
    monkeypatch.setattr(Overlapping, "start_notes", (SUMS_DIFFER,))
    with pytest.raises(CheckFailed, match="otherwise than NumPy"):
        checks._agreement()


class TestAnyGpu:
    """WebGPU: any maker's GPU, and software that does a GPU's work."""

    @pytest.fixture
    def checks(self, monkeypatch):
        """Return a function that makes the checks, with adapters of a kind; the CPU computes."""
        real = smoke_checks.open_backend
        monkeypatch.setattr(
            smoke_checks, "open_backend", lambda name, model: real("ort-cpu", model)
        )
        monkeypatch.setattr(smoke_checks.sys, "platform", "linux")

        def make(kind):
            listed = (Adapter(name="Radeon", kind=kind),)
            monkeypatch.setattr(smoke_checks, "adapters", lambda: listed)
            monkeypatch.setattr(
                smoke_checks, "every_adapter_is_software", lambda: listed[0].is_software
            )
            found = SmokeChecks("ort-webgpu")
            found._computes = True
            return found

        return make

    def test_times_are_told_without_a_limit(self, checks, monkeypatch):
        """No data sheet of them is known here."""
        monkeypatch.setattr(smoke_checks, "TIMED_MATRIX", (16, 16))
        monkeypatch.setattr(smoke_checks, "TIMED_S", 0.0)
        found = checks("GPU")
        assert found._machine() == {"adapters": ["Radeon (GPU)"]}
        measured = found._times("fp32", 2)
        assert measured["whole_p50_us"] > 0.0
        assert "estimate_us" not in measured
        assert [measured[key] for key in ("copies_us", "device_p50_us", "fft_share")] == [None] * 3
        limits = {one.limit for one in found.checks() if one.name.startswith("times of ")}
        assert limits == {"measured"}

    def test_times_of_software_prove_nothing(self, checks):
        """Its numbers do."""
        found = checks("software")
        for check in (
            *(found._machine, found._energy, found._sample),
            lambda: found._times("fp32", 1),
        ):
            with pytest.raises(NotProved, match="it is software on the CPU, and no GPU"):
                check()
        assert found._agreement()["largest_difference"] <= smoke_checks.AGREEMENT

    def test_a_gpu_without_fp16_is_no_fault(self, checks, monkeypatch):
        """Many an older one has none; any other refusal is."""
        found = checks("GPU")
        for message, error in (
            (f"{smoke_checks.NO_FP16_SHADERS}, which 'x2-fast' needs", NotProved),
            ("the GPU is gone", BackendUnavailableError),
        ):

            def refuse(model, backend, message=message):
                raise BackendUnavailableError(message)

            monkeypatch.setattr(smoke_checks, "verify_model", refuse)
            with pytest.raises(error, match=message):
                found._known_answer("x2-fast", "fp16")


def test_what_is_no_gpu_backend_is_refused():
    """And a machine without one says why in one sentence; one that is named says its own."""
    with pytest.raises(InputError, match="'ort-cpu' is no backend that the first run checks"):
        choose_gpu_backend(("ort-cpu",))
    if all(BACKENDS[name].why_not() for name in ORDER):
        done = CliRunner().invoke(app, ["bench", "--profile", "smoke", "--json"])
        assert done.exit_code == 3
        (line,) = (one for one in done.stderr.splitlines() if one.startswith("{"))
        error = json.loads(line)["error"]
        reason = (
            BACKENDS[ORDER[0]].why_not().removeprefix(f"backend '{ORDER[0]}' cannot run here: ")
        )
        assert error["message"] == f"no GPU backend can run here: {reason}"
        assert error["hint"] == "kspacesr-rt doctor says what each lacks"
        with pytest.raises(BackendUnavailableError) as caught:
            choose_gpu_backend((ON_ANY_GPU,))
        assert str(caught.value) == BACKENDS[ON_ANY_GPU].why_not()
    refused = CliRunner().invoke(app, ["bench", "--profile", "smoke", "--batch", "2"])
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L40S", "L40S"),
        ("Quadro P400", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
    ],
)
def test_a_drivers_name_finds_the_data_sheet(name, known):
    """Drivers add memory and form; without the data sheet there is no estimate, and no limit."""
    found = find_gpu_model(known_part(name))
    assert (found and found.name) == known


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (1.0, "1000.0"), (0.00123, "1.2"), (0.000457, "0.457"), (0.0000361, "0.0361")],
)
def test_microseconds_are_readable(seconds, text):
    """A call of 36 us was shown as 0.0 ms."""
    assert milliseconds(seconds) == text


def test_rows_of_backends_that_cannot_run_are_refused_before_anything_is_timed(monkeypatch):
    """A table of failures alone is no result: exit 3, as every command says it."""
    told = "backend 'ort-cuda' cannot run here: it is gone"
    monkeypatch.setattr(type(BACKENDS["ort-cuda"]), "why_not", lambda self: told)
    done = CliRunner().invoke(app, ["bench", "--only", "ort-cuda", "--only", "fp32", "--json"])
    assert (done.exit_code, done.stdout) == (3, "")
    assert told in done.stderr
