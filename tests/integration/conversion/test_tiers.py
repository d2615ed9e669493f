"""Tiers: the fastest row that keeps what was asked for, named wherever its results go."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import kspacesr_rt as ks
from kspacesr_rt.cli import app
from kspacesr_rt.conversion import matrix_gate, tiers
from kspacesr_rt.conversion.matrix_gate import Verdict
from kspacesr_rt.conversion.parity import cases_on
from kspacesr_rt.conversion.tier_cache import TierCache
from kspacesr_rt.conversion.tier_preview import preview_tiers
from kspacesr_rt.errors import InputError, ParityError, RunMismatchError
from kspacesr_rt.pipeline.backend_pool import BackendPool
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.sample import sample_folder

MATRIX = (96, 80)
"""Of a study, where that is not the sample."""
SAMPLE = [256, 256]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test a cache of its own."""
    monkeypatch.setenv("KSPACESR_RT_CACHE", str(tmp_path / "cache"))
    return TierCache()


@pytest.fixture
def study(tmp_path):
    """Copy one slice of the sample."""
    folder = tmp_path / "study"
    folder.mkdir()
    shutil.copy(sorted(sample_folder().glob("*.dcm"))[8], folder)
    return folder


@pytest.fixture
def stopwatch(monkeypatch):
    """Put milliseconds by precision in place of a stopwatch; give a list of what was timed."""
    figures = {"fp32": 10.0, "fp16": 8.0, "bf16": 6.0, "int8": 4.0}
    timed = []

    def seconds(model, backend, matrix, options):
        timed.append((backend, model.spec.precision, matrix))
        return figures[model.spec.precision] / 1e3

    monkeypatch.setattr(tiers, "seconds_per_slice", seconds)
    return figures, timed


def pool(model, tier, backend="ort-cpu", **options):
    return BackendPool(ks.InferOptions(model=str(model), backend=backend, tier=tier, **options))


def choice(model, tier, matrices=(MATRIX,), **options):
    opened = pool(model, tier, **options)
    opened.settle(matrices)
    return opened.tier_choice


# --- the choice -----------------------------------------------------------------------------------


def test_the_fastest_row_that_keeps_the_tier_is_taken_and_kept(
    calm_model_file, stopwatch, monkeypatch, cache
):
    """Its model is proved on the study's matrix; another run finds all of it and times nothing."""
    _, timed = stopwatch
    found = choice(calm_model_file, "max")
    assert (found.row.backend, found.row.precision) == ("ort-cpu", "int8")
    assert found.model.spec.precision == "int8"
    assert 45.0 < found.row.psnr_between_db < 100.0
    assert "tier max: int8 on ort-cpu, 4.0 ms a slice of 96 x 80" in found.as_text()
    assert {one[1] for one in timed} == {"fp32", "fp16", "int8"}
    n_timed = len(timed)
    again = choice(calm_model_file, "max")
    assert again.cached
    assert again.row == found.row
    assert again.model.spec == found.model.spec
    assert len(timed) == n_timed
    # Another matrix is another question; the model is there, and proved there too.
    monkeypatch.setattr(tiers, "converted", None)
    other = choice(calm_model_file, "max", [(64, 48), MATRIX])
    assert not other.cached
    assert other.matrices == ((64, 48), MATRIX)
    assert timed[n_timed][2] == (64, 48)
    (entry,) = cache.listing()
    assert entry.inputs["precision"] == "int8"


def test_a_matrix_that_no_model_can_be_bound_to_does_not_stand_in_the_way(
    calm_model_file, stopwatch
):
    """Its slices fail by themselves, in any precision; the others have their tier."""
    found = choice(calm_model_file, "fast", [(4, 4), MATRIX])
    assert found.matrices == (MATRIX,)
    assert found.row.precision == "fp16"
    assert choice(calm_model_file, "fast", [(4, 4), MATRIX]).matrices == (MATRIX,)


def test_fast_never_computes_in_8_bits(calm_model_file, stopwatch):
    """A tier is a promise, not a wish."""
    found = choice(calm_model_file, "fast")
    assert found.row.precision == "fp16"
    assert {row.precision for row in found.rows} == {"fp32", "fp16"}


def test_a_row_that_misses_the_tier_on_the_matrix_of_the_study_is_passed_over(
    calm_model_file, stopwatch, monkeypatch
):
    """It was right where it was made; the next one is taken, and the failure is told."""
    real = tiers.gate_on

    def gate(matrix, source, model, *rest):
        if model.spec.precision == "int8":
            return Verdict(failures=("phantom, 256 x 256: SSIM change",), psnr_between_db=44.0)
        return real(matrix, source, model, *rest)

    monkeypatch.setattr(tiers, "gate_on", gate)
    found = choice(calm_model_file, "max")
    assert found.row.precision == "fp16"
    assert "int8 on ort-cpu 4.0 ms (phantom, 256 x 256: SSIM change)" in found.as_text()


def test_a_row_that_cannot_be_made_is_passed_over(calm_model_file, stopwatch, monkeypatch):
    """The gate of the conversion says no: the same as on the study's matrix."""

    def refuses(*args, **kwargs):
        raise ParityError("the model does not compute what it should")

    monkeypatch.setattr(tiers, "converted", refuses)
    found = choice(calm_model_file, "max")
    assert found.row.precision == "fp32"
    assert "no narrower row that keeps the tier is faster here" in found.as_text()
    assert "(the model does not compute what it should)" in found.as_text()


def test_exactness_is_not_given_up_for_nothing(calm_model_file, stopwatch, monkeypatch):
    """A few per cent are not worth it; nothing is made then, and the reason is told."""
    figures, _ = stopwatch
    figures.update(int8=9.7, fp16=12.0)
    monkeypatch.setattr(tiers, "converted", None)
    found = choice(calm_model_file, "max")
    assert (found.row.precision, found.model.spec.precision) == ("fp32", "fp32")
    assert "saves less than 5% of the time of fp32 on ort-cpu" in found.as_text()
    assert not TierCache().listing()


def test_layers_that_stay_in_fp32_count(calm_model_file, stopwatch, monkeypatch):
    """8 bits are timed again once it is known which layers have them: a slower file loses."""
    real = tiers.seconds_per_slice

    def seconds(model, *rest):
        made = "quantisation" in model.spec.parity
        return 9.0 / 1e3 if made else real(model, *rest)

    monkeypatch.setattr(tiers, "seconds_per_slice", seconds)
    found = choice(calm_model_file, "max")
    assert found.row.precision == "fp16"
    assert {row.precision: row.seconds for row in found.rows}["int8"] == 9.0 / 1e3


@pytest.mark.parametrize("damage", ["model", "note", "choice"])
def test_what_is_damaged_is_made_again(calm_model_file, stopwatch, cache, damage):
    """Never run, never an error."""
    found = choice(calm_model_file, "fast")
    (entry,) = cache.listing()
    paths = {
        "model": entry.path,
        "note": entry.path.with_suffix(".json"),
        "choice": next(cache.folder.glob("choice-*.json")),
    }
    paths[damage].write_bytes(paths[damage].read_bytes()[:-40])
    again = choice(calm_model_file, "fast")
    assert not again.cached
    assert again.row == found.row
    assert choice(calm_model_file, "fast").cached


def test_without_a_place_to_keep_things_it_still_works(
    calm_model_file, stopwatch, monkeypatch, tmp_path
):
    """And says that it will take as long the next time."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KSPACESR_RT_CACHE", str(tmp_path / "file" / "no-folder"))
    found = choice(calm_model_file, "fast")
    assert found.row.precision == "fp16"
    assert any("was not kept" in note for note in found.notes)


def test_the_gate_on_a_matrix_is_told_apart_from_pure_luck():
    """Slices of that very matrix, with detail up to their own rim: not an enlarged image."""
    for matrix in ((96, 150), (200, 64), (33, 47)):
        for case in cases_on(matrix, 2):
            assert case.lr.shape == matrix
            assert case.hr.shape == (2 * matrix[0], 2 * matrix[1])
            spectrum = np.abs(np.fft.fftshift(np.fft.fft2(case.hr)))
            rows, columns = case.hr.shape
            assert spectrum[: rows // 8].max() > 1e-5 * spectrum.max()
            assert spectrum[:, : columns // 8].max() > 1e-5 * spectrum.max()


# --- a run ----------------------------------------------------------------------------------------


def test_a_run_names_tier_and_precision_in_report_and_outputs(
    calm_model_file, stopwatch, study, tmp_path
):
    """Whoever opens the derived series sees what computed it."""
    options = ks.InferOptions(model=str(calm_model_file), backend="ort-cpu", tier="max", threads=1)
    report = ks.infer(study, tmp_path / "out", options)
    assert report.count("written") == 1
    assert report.precision == "int8"
    told = report.summary()["backend_choice"]["tier"]
    assert (told["asked"], told["precision"], told["backend"]) == ("max", "int8", "ort-cpu")
    assert told["matrices"] == [SAMPLE]
    assert {row["precision"] for row in told["rows"]} == {"fp32", "fp16", "int8"}
    assert "in int8 on ort-cpu" in report.as_text()
    assert "tier max: int8 on ort-cpu, 4.0 ms a slice of 256 x 256" in report.as_text()
    (written,) = (tmp_path / "out").rglob("*.dcm")
    data = pydicom.dcmread(written)
    assert "in int8 on ort-cpu, tier max" in data.DerivationDescription
    described = [one.get("ContributionDescription") for one in data.ContributingEquipmentSequence]
    assert any("in int8 on ort-cpu, tier max" in str(text) for text in described)
    # The same again goes on; another tier is never mixed in.
    assert ks.infer(study, tmp_path / "out", options).count("present") == 1
    exact = ks.InferOptions(model=str(calm_model_file), backend="ort-cpu", threads=1)
    with pytest.raises(RunMismatchError, match=r"tier \(max, now exact\)"):
        ks.infer(study, tmp_path / "out", exact)
    other = ks.infer(study, tmp_path / "exact", exact)
    assert other.precision == "fp32"
    assert other.summary()["backend_choice"]["tier"] is None
    (plain,) = (tmp_path / "exact").rglob("*.dcm")
    plain = pydicom.dcmread(plain)
    assert "tier" not in plain.DerivationDescription
    assert plain.SOPInstanceUID != data.SOPInstanceUID
    assert plain.SeriesInstanceUID != data.SeriesInstanceUID
    assert not np.array_equal(plain.pixel_array, data.pixel_array)


def test_a_tier_that_only_fp32_keeps_is_still_told(
    calm_model_file, stopwatch, study, tmp_path, monkeypatch
):
    """No silent fallback: the report says why it is fp32."""
    figures, _ = stopwatch
    figures.update(int8=20.0, fp16=20.0)
    asked = ["infer", str(study), str(tmp_path / "out"), "--model", str(calm_model_file)]
    result = CliRunner().invoke(app, [*asked, "--backend", "ort-cpu", "--tier", "fast"])
    assert result.exit_code == 0, result.output
    assert "no narrower row that keeps the tier is faster here" in result.stdout
    (written,) = (tmp_path / "out").rglob("*.dcm")
    assert "on ort-cpu, tier fast" in pydicom.dcmread(written).DerivationDescription


def test_arrays_take_a_tier_and_a_matrix_that_does_not_keep_it_is_an_error(
    calm_model_file, stopwatch, monkeypatch
):
    """Of `ks.load`: the first matrix is gated when it comes, and another one by itself."""
    with ks.load(calm_model_file, backend="ort-cpu", tier="fast", threads=1) as model:
        assert model.spec.precision == "fp16"
        assert model(np.ones((2, 40, 32), np.float32)).shape == (2, 80, 64)
        monkeypatch.setattr(
            matrix_gate,
            "check",
            lambda *args, **kwargs: (
                pytest.fail("gated again") if kwargs.get("tier") != "fast" else _failed()
            ),
        )
        model(np.ones((40, 32), np.float32))
        with pytest.raises(ParityError, match=r"does not keep the tier 'fast' at 24 x 40") as told:
            model(np.ones((24, 40), np.float32))
        assert "tier exact" in told.value.hint


def _failed():
    class Report:
        failures = ("sample slice 4: PSNR between the two 3 is outside 65",)
        agreements = (type("One", (), {"psnr_between_db": 3.0})(),)

    return Report()


def test_a_series_whose_matrix_comes_later_fails_by_name(
    calm_model_file, stopwatch, study, tmp_path, monkeypatch
):
    """A service meets matrices as they come: such slices fail, `tier`, and are not written."""
    options = ks.InferOptions(model=str(calm_model_file), backend="ort-cpu", tier="fast", threads=1)
    from kspacesr_rt.dicom import scan_folder

    with ks.Session(options) as session:
        run = session.new_run(study, tmp_path / "out")
        assert session.spec.precision == "fp16"
        monkeypatch.setattr(matrix_gate, "check", lambda *args, **kwargs: _failed())
        session.process(run, scan_folder(study).series)
    (record,) = run.records.values()
    assert (record.outcome, record.reason) == ("failed", "tier")
    assert "does not keep the tier 'fast' at 256 x 256" in record.message
    assert not list(tmp_path.glob("out/**/*.dcm"))


def test_the_first_use_needs_no_torch(calm_model_file, study, tmp_path):
    """Timing, conversion, gate and run, as on a box beside a scanner."""
    arguments = ["infer", str(study), str(tmp_path / "out"), "--model", str(calm_model_file)]
    arguments += ["--backend", "ort-cpu", "--tier", "max", "--threads", "1", "--json"]
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from kspacesr_rt.conversion import tiers\n"
        "slow = {'fp32': 9.0, 'fp16': 8.0, 'int8': 4.0}\n"
        "tiers.seconds_per_slice = lambda model, *rest: slow[model.spec.precision]\n"
        "from kspacesr_rt.cli import main\n"
        f"sys.argv = ['kspacesr-rt', *{arguments!r}]\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["written"] == 1
    assert told["backend_choice"]["tier"]["precision"] == "int8"


def test_a_real_stopwatch_says_something(calm_model_file):
    """Not how fast: that every row that runs has a time, and that one is taken."""
    found = choice(calm_model_file, "fast", [(32, 32)], threads=1)
    assert all(row.seconds and row.seconds > 0.0 for row in found.rows)
    assert found.row in found.rows


# --- what is refused ------------------------------------------------------------------------------


def test_what_has_no_tiers_says_so(calm_model_file, model_file, tmp_path):
    """Before anything is made."""
    with pytest.raises(InputError, match="tier is one of exact, fast, max, not 'turbo'"):
        ks.InferOptions(tier="turbo")
    with pytest.raises(InputError, match="computes without a model"):
        BackendPool(ks.InferOptions(backend="zero-fill", tier="fast"))
    narrow = ks.convert_model(model_file, tmp_path / "n.onnx", precision="fp16")
    with pytest.raises(InputError, match="is in fp16") as told:
        pool(narrow.path, "max")
    assert "leave the tier out" in told.value.hint


def test_an_empty_study_costs_no_conversion(calm_model_file, tmp_path, monkeypatch, stopwatch):
    """It ends as it does without a tier, and nothing is timed."""
    (tmp_path / "empty").mkdir()
    asked = ["infer", str(tmp_path / "empty"), str(tmp_path / "out"), "--tier", "max"]
    result = CliRunner().invoke(app, [*asked, "--model", str(calm_model_file)])
    assert result.exit_code == 9
    assert not stopwatch[1]


# --- doctor and cache -----------------------------------------------------------------------------


def test_doctor_says_what_tiers_run_on_and_cache_lists_and_clears(
    calm_model_file, stopwatch, cache
):
    """What was chosen here, and what would be tried."""
    found = choice(calm_model_file, "fast")
    _, fast, _ = preview_tiers()
    assert fast.tier == "fast"
    assert fast.chosen == (f"{found.model.spec.name} at 96 x 80: fp16 on ort-cpu",)
    printed = CliRunner().invoke(app, ["doctor", "--json"])
    assert set(json.loads(printed.stdout)["tiers"]) == {"exact", "fast", "max"}
    text = CliRunner().invoke(app, ["doctor"]).stdout
    assert "fp16 on ort-cpu" in text
    listed = json.loads(CliRunner().invoke(app, ["cache", "ls", "--json"]).stdout)
    assert [one["converted"]["precision"] for one in listed] == ["fp16"]
    assert "in fp16 for ort-cpu" in CliRunner().invoke(app, ["cache", "ls"]).stdout
    removed = CliRunner().invoke(app, ["cache", "prune", "--all"]).stdout
    assert "in fp16 for ort-cpu" in removed
    assert not cache.listing()
    assert not cache.choices()
    assert not list(cache.folder.iterdir())


def test_bf16_and_int8_are_expected_where_the_cpu_has_them(monkeypatch):
    """Said from the CPU's own list, not promised."""
    from kspacesr_rt.conversion import tier_preview

    monkeypatch.setattr(tier_preview, "cpu_features", lambda: ("avx2", "avx512_vnni"))
    monkeypatch.setattr(tier_preview, "PREFERENCE", ("openvino", "ort-cpu"))
    monkeypatch.setattr(
        tier_preview,
        "BACKENDS",
        {
            name: type("Row", (), {"why_not": lambda self: None, "on_gpu": False})()
            for name in BACKENDS
        },
    )
    exact, fast, most = preview_tiers()
    assert exact.expected == fast.expected == ()
    assert most.expected == ("int8 on openvino", "int8 on ort-cpu")
    assert "would try nothing but fp32" in fast.as_text()


@pytest.mark.parametrize(
    ("features", "fast", "most"),
    [
        (("avx2", "avx512_vnni"), [], []),
        (("avx2", "avx512_vnni", "avx512_bf16"), ["bf16"], ["bf16", "int8"]),
        (("avx2", "amx_int8"), [], ["int8"]),
    ],
)
def test_what_openvino_would_add_is_said_without_it(monkeypatch, features, fast, most):
    """A CPU with bf16 of its own would otherwise be told of fp32 alone."""
    from kspacesr_rt.conversion import tier_preview

    row = type("Row", (), {"why_not": lambda self: "not installed", "on_gpu": False})()
    monkeypatch.setattr(tier_preview, "cpu_features", lambda: features)
    monkeypatch.setattr(tier_preview, "BACKENDS", dict.fromkeys(BACKENDS, row))
    said = {one.tier: one for one in preview_tiers()}
    assert said["fast"].to_dict()["openvino_would_add"] == fast
    assert said["max"].to_dict()["openvino_would_add"] == most
    sentence = "would add bf16 and int8 on this CPU: pip install 'kspacesr-rt[openvino]'"
    assert (sentence in said["max"].as_text()) == (most == ["bf16", "int8"])
    assert ("openvino would add" in said["fast"].as_text()) == bool(fast)
    assert "openvino" not in said["exact"].as_text()
