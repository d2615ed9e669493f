"""The gate of export: an honest model passes, a wrong one leaves no file and exits 4."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from kspacesr_rt import kspace
from kspacesr_rt.cli import app
from kspacesr_rt.conversion import proof
from kspacesr_rt.conversion.parity import (
    TIERS,
    Case,
    ParityReport,
    check,
    compare,
    failures_of,
    gate_cases,
    require_parity,
)
from kspacesr_rt.errors import ParityError
from kspacesr_rt.export.lowering import lower
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model import binding
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model, weights_digest
from kspacesr_rt.runtime.self_test import verify_model
from kspacesr_rt.train.checkpoint import save_checkpoint

EXACT = TIERS["exact"]
RIGHT_ANALYSIS = binding.analysis_matrix


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(checkpoint_file, tmp_path_factory):
    """Export honestly through the command line, with a report; treat the folder as read-only."""
    folder = tmp_path_factory.mktemp("honest")
    result = invoke(
        "export", checkpoint_file, "-o", folder / "out" / "tiny.onnx", "--report", folder / "r.json"
    )
    return folder, result


def case(upscale: int = 2, matrix: tuple[int, int] = (20, 25)) -> Case:
    hr = brain_phantom(kspace.upscaled(matrix, upscale)).astype(np.float32)
    return Case(name="phantom", hr=hr, lr=kspace.degrade(hr, upscale).astype(np.float32))


# --- an honest model ------------------------------------------------------------------------------


def test_an_honest_model_passes_and_is_written(exported):
    """The gate must not cry wolf: rounding alone stays far inside every tolerance."""
    folder, result = exported
    assert (result.exit_code, result.stderr) == (0, "")
    assert [path.name for path in (folder / "out").iterdir()] == ["tiny.onnx"]
    assert "parity with PyTorch fp32 on ort-cpu, tier exact" in result.stdout
    rows = json.loads((folder / "r.json").read_text())["cases"]
    assert min(row["psnr_between_db"] for row in rows) > 110.0
    assert max(row["centre_error"] for row in rows) < 3e-6
    assert max(row["rim_error"] for row in rows) < 1e-3


def test_the_gate_looks_at_real_slices_phantoms_an_odd_matrix_and_scanner_units(exported):
    """What the gate never runs, it never proves."""
    folder, _ = exported
    rows = json.loads((folder / "r.json").read_text())["cases"]
    names = [row["case"] for row in rows]
    assert sum(name.startswith("sample slice") for name in names) == 3
    assert {"phantom", "phantom, odd matrix", "phantom, 12-bit units"} <= set(names)
    assert [67, 90] in [row["matrix"] for row in rows]
    assert [128, 128] in [row["matrix"] for row in rows]


@pytest.mark.parametrize("upscale", [2, 4])
def test_the_gates_pairs_are_physical(upscale):
    """LR is |IFFT(crop)| of HR on the same FOV; any other pair would prove nothing about use."""
    for one in gate_cases(upscale, (24, 24)):
        assert one.hr.shape == kspace.upscaled(one.lr.shape, upscale)
        assert one.hr.dtype == one.lr.dtype == np.float32
        spectrum = kspace.centre_crop(kspace.fft2c(one.hr.astype(np.float64)), one.lr.shape)
        expected = np.abs(kspace.ifft2c(spectrum)) / upscale
        np.testing.assert_allclose(one.lr, expected, atol=1e-5 * one.hr.max())


def test_the_files_spec_records_what_was_measured(exported):
    """`inspect` shows the parity record, so it must be the one of this very file."""
    folder, _ = exported
    report = json.loads((folder / "r.json").read_text())
    spec = load_model(folder / "out" / "tiny.onnx").spec
    assert spec.parity == report
    assert report["failures"] == []
    assert spec.lowering == "gemm"
    assert spec.opset == 20
    assert len(spec.provenance.checkpoint_sha256) == 64


def test_the_known_answer_of_an_exported_file_verifies(exported):
    """Any machine can check itself before its first real slice."""
    folder, _ = exported
    model = load_model(folder / "out" / "tiny.onnx")
    assert verify_model(model, "ort-cpu").passed
    answer = model.known_answer()
    assert (answer.lr.shape, answer.sr.shape) == ((40, 33), (80, 66))
    assert float(answer.sr.std()) > 0.05  # an answer of zeros would be matched by a dead backend


def test_json_is_one_line_with_the_parity_record(checkpoint_file, tmp_path):
    """A build script reads the numbers without parsing a table."""
    result = invoke("export", checkpoint_file, "-o", tmp_path / "m.onnx", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    document = json.loads(result.stdout)
    assert document["path"] == str(tmp_path / "m.onnx")
    assert document["parity"]["failures"] == []


def test_the_dft_lowering_passes_where_it_is_as_good_as_its_kernel(checkpoint_file, tmp_path):
    """`--fft dft` is an offered option: an honest model must be exportable with it.

    ONNX Runtime's DFT kernel is good to 5e-5 (RUNTIMES.md, D1): a tolerance below that refuses
    every model on some matrix.
    """
    result = invoke("export", checkpoint_file, "-o", tmp_path / "m.onnx", "--fft", "dft", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    assert load_model(tmp_path / "m.onnx").spec.lowering == "dft"


@pytest.mark.parametrize("architecture", ["seed-kspace", "seed-image"])
def test_the_seeds_generators_pass_too(make_generator, tmp_path, architecture):
    """They are kept loadable and exportable: through the whole command, not only `lower`."""
    generator, spec = make_generator(architecture, 4)
    save_checkpoint(tmp_path / "seed.pt", spec, generator.state_dict())
    result = invoke("export", tmp_path / "seed.pt", "-o", tmp_path / "seed.onnx", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_digest_survives_binding_and_another_lowering(exported, make_generator):
    """One digest names the weights, whatever matrix or lowering a site uses, and no others."""
    folder, _ = exported
    model = load_model(folder / "out" / "tiny.onnx")
    stored = model.spec.provenance.weights_sha256
    assert weights_digest(bind(model, (77, 50)).proto) == stored
    generator, spec = make_generator()
    assert weights_digest(lower(generator, spec, "dft")) == stored
    assert weights_digest(lower(*make_generator(seed=1))) != stored


def test_digest_covers_the_stored_spectra(make_generator):
    """h_LR and h_HR are part of the model: they sit in attributes, not among the weights."""
    generator, spec = make_generator("seed-kspace", 2)
    before = weights_digest(lower(generator, spec))
    generator.h_lr.spectrum[3, 4] *= 1.01
    assert weights_digest(lower(generator, spec)) != before


# --- a wrong model --------------------------------------------------------------------------------


def plant_one_percent(monkeypatch) -> None:
    """Make one frequency of each axis 1 % too large in every forward transform."""

    def wrong(n, length, dtype):
        factor = RIGHT_ANALYSIS(n, length, dtype)
        factor[len(factor) // 4] *= np.float32(1.01)
        return factor

    monkeypatch.setattr(binding, "analysis_matrix", wrong)


def test_a_planted_error_of_one_percent_exits_4_and_leaves_no_file(
    monkeypatch, checkpoint_file, tmp_path
):
    """The proof that the gate can fail, from the command line to the folder."""
    plant_one_percent(monkeypatch)
    folder, report = tmp_path / "out", tmp_path / "report.json"
    folder.mkdir()
    result = invoke("export", checkpoint_file, "-o", folder / "m.onnx", "--report", report)
    assert result.exit_code == 4
    assert list(folder.iterdir()) == []
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith(
        "error: the model does not compute what PyTorch fp32 computes: phantom: PSNR between"
        " the two "
    )
    assert first.endswith("; no file was written")
    assert second == "hint: --report FILE keeps every number that was measured"
    document = json.loads(report.read_text())
    measured = document["cases"][0]["psnr_between_db"]
    assert measured < 100.0
    assert document["failures"][0] == (
        f"phantom: PSNR between the two {measured:.3g} is outside 100"
    )
    assert document["failures"][0] in first
    assert list(tmp_path.glob(".*")) == []


def test_a_wrong_phase_is_caught(monkeypatch, checkpoint_file, tmp_path):
    """The convention mix-up of the seed, (-1)^k: invisible in a magnitude spectrum."""

    def checkerboard(n, length, dtype):
        matrix = RIGHT_ANALYSIS(n, length, dtype)
        pairs = (n - 1) // 2
        k = np.arange(1, pairs + 1)
        matrix[1 : 1 + 2 * pairs] *= ((-1.0) ** np.concatenate([k, k]))[:, None].astype(dtype)
        return matrix

    monkeypatch.setattr(binding, "analysis_matrix", checkerboard)
    result = invoke("export", checkpoint_file, "-o", tmp_path / "m.onnx")
    assert result.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_phase_of_complex_transforms_is_caught(make_generator, monkeypatch, tmp_path):
    """The same of the networks that read k-space, whose transforms are complex."""
    generator, spec = make_generator("seed-kspace", 2)
    save_checkpoint(tmp_path / "seed.pt", spec, generator.state_dict())
    real = binding.centred_dft

    def checkerboard(n_from, n_to, *, inverse, **keywords):
        matrix = real(n_from, n_to, inverse=inverse, **keywords)
        return matrix if inverse else matrix * ((-1.0) ** np.arange(n_to))[:, None]

    assert invoke("export", tmp_path / "seed.pt", "-o", tmp_path / "right.onnx").exit_code == 0
    monkeypatch.setattr(binding, "centred_dft", checkerboard)
    result = invoke("export", tmp_path / "seed.pt", "-o", tmp_path / "m.onnx")
    assert result.exit_code == 4
    assert not (tmp_path / "m.onnx").exists()


def test_a_wrong_body_of_the_other_lowering_is_caught(monkeypatch, checkpoint_file, tmp_path):
    """`--fft dft` goes through the same gate."""
    real = binding._dft_constants

    def wrong(grids, inverse):
        constants = real(grids, inverse)
        return constants | {"gain": constants["gain"] * np.float32(1.01)}

    monkeypatch.setattr(binding, "_dft_constants", wrong)
    result = invoke("export", checkpoint_file, "-o", tmp_path / "m.onnx", "--fft", "dft")
    assert result.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_an_error_only_on_other_matrices_is_caught(monkeypatch, checkpoint_file, tmp_path):
    """Right as stored, wrong when bound to an odd matrix: the gate binds as users will."""

    def wrong_when_odd(n, length, dtype):
        matrix = RIGHT_ANALYSIS(n, length, dtype)
        return np.roll(matrix, 1, axis=0) if n == 67 else matrix

    monkeypatch.setattr(binding, "analysis_matrix", wrong_when_odd)
    result = invoke("export", checkpoint_file, "-o", tmp_path / "m.onnx")
    assert result.exit_code == 4
    assert "phantom, odd matrix: " in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_result_of_nan_is_caught(monkeypatch, checkpoint_file, tmp_path):
    """NaN compares false with every tolerance: the gate must not read that as 'not outside'."""
    real = proof.backend_runner

    def runner(model, backend):
        run = real(model, backend)

        def broken(lr):
            result = run(lr).copy()
            result[5, 7] = np.nan
            return result

        return broken

    monkeypatch.setattr(proof, "backend_runner", runner)
    result = invoke("export", checkpoint_file, "-o", tmp_path / "m.onnx", "--report",
                    tmp_path / "r.json")  # fmt: skip
    assert result.exit_code == 4
    assert "phantom: NaN or infinity" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    rows = json.loads((tmp_path / "r.json").read_text())["cases"]
    assert not any(row["finite"] for row in rows)


# --- the judge itself -----------------------------------------------------------------------------


def judged(result: np.ndarray, one: Case, reference: np.ndarray) -> list[str]:
    return failures_of(compare(one, reference, result), EXACT)


def test_equal_results_agree_perfectly():
    """Bitwise equality is an infinite PSNR and zero everywhere else, and passes."""
    one = case()
    agreement = compare(one, reference_for(one), reference_for(one))
    assert agreement.psnr_between_db == math.inf
    assert agreement.centre_error == agreement.rim_error == agreement.max_error == 0.0
    assert agreement.delta_psnr_db == agreement.delta_ssim == agreement.delta_mae_share == 0.0
    assert failures_of(agreement, EXACT) == []


def reference_for(one: Case) -> np.ndarray:
    """Return a plausible SR result: the zero-filled image plus half of the missing rim."""
    zero_filled = kspace.zero_fill_image(one.lr, 2).real
    return ((zero_filled + one.hr) / 2).astype(np.float32)


def test_a_rounding_error_passes():
    """1e-7 of the maximum everywhere is what two orders of fp32 summation differ by."""
    one = case()
    reference = reference_for(one)
    noise = np.random.default_rng(0).standard_normal(reference.shape).astype(np.float32)
    assert judged(reference + np.float32(1e-7) * noise, one, reference) == []


@pytest.mark.parametrize(("share", "caught"), [(0.0002, False), (0.005, True)])
def test_an_error_only_in_the_rim_is_judged_by_the_rims_own_energy(share, caught):
    """80 dB in the image may hide a rim that is wrong by half: the predicted part is all rim.

    The rim here is faint (1e-4 of the image), so the image's PSNR alone would let it pass.
    """
    matrix = (21, 25)  # odd: the Nyquist line of an even axis would belong to centre and rim
    one = case(matrix=matrix)
    zero_filled = kspace.zero_fill_image(one.lr.astype(np.float64), 2).real
    noise = kspace.fft2c(np.random.default_rng(0).standard_normal(one.hr.shape))
    rim = noise - kspace.centre_fill(kspace.centre_crop(noise, matrix), noise.shape)
    faint = kspace.ifft2c(rim).real
    faint *= 1e-4 * np.linalg.norm(zero_filled) / np.linalg.norm(faint)
    reference, wrong = zero_filled + faint, zero_filled + (1.0 + share) * faint
    agreement = compare(one, reference, wrong)
    assert agreement.centre_error < EXACT.centre_error
    assert agreement.psnr_between_db > EXACT.psnr_between_db
    found = failures_of(agreement, EXACT)
    assert found == (
        [f"phantom: k-space rim error {agreement.rim_error:.3g} is outside 0.001"] if caught else []
    )


def test_an_error_only_in_the_centre_is_named_as_such():
    """The measured band is the patient's: its tolerance is a thousand times tighter."""
    one = case()
    reference = reference_for(one).astype(np.float64)
    spectrum = kspace.fft2c(reference)
    spectrum[20, 25] *= 1.0 + 3e-5  # DC: no structure changes, the intensity does
    agreement = compare(one, reference, kspace.ifft2c(spectrum).real)
    assert agreement.rim_error < 1e-9
    assert any("k-space centre error" in text for text in failures_of(agreement, EXACT))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_sample_fails_and_is_said_first(bad):
    """One NaN among a million samples is enough, and the first thing to know."""
    one = case()
    reference = reference_for(one)
    result = reference.copy()
    result[0, 0] = bad
    assert judged(result, one, reference)[0] == "phantom: NaN or infinity"


def test_numbers_that_are_nan_fail():
    """`value > limit` is false for NaN: written that way, a broken metric would pass the gate."""
    one = case()
    agreement = compare(one, reference_for(one), reference_for(one))
    for field in ("psnr_between_db", "centre_error", "rim_error", "delta_psnr_db", "delta_ssim",
                  "delta_mae_share"):  # fmt: skip
        broken = dataclasses.replace(agreement, **{field: math.nan})
        assert len(failures_of(broken, EXACT)) == 1


def test_quality_changes_are_judged_in_scanner_units_too():
    """Metrics are relative to the HR maximum: a series in 12-bit units is judged as strictly."""
    one = case()
    gain = np.float32(1000.0)
    large = Case(name="large", hr=one.hr * gain, lr=one.lr * gain)
    reference = reference_for(one)
    wrong = reference * np.float32(1.001)
    small_scale, large_scale = compare(one, reference, wrong), compare(
        large, reference * gain, wrong * gain
    )  # fmt: skip
    for field in ("psnr_between_db", "delta_psnr_db", "delta_ssim", "delta_mae_share"):
        expected = getattr(small_scale, field)
        assert getattr(large_scale, field) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_a_report_with_failures_raises_and_counts_them():
    """The message names the first failure and says how many more there are."""
    one = case()
    report = check([one], lambda lr: reference_for(one), lambda lr: 1.01 * reference_for(one),
                   backend="ort-cpu")  # fmt: skip
    with pytest.raises(ParityError) as caught:
        require_parity(report)
    n = len(report.failures)
    assert n > 1
    assert f"{report.failures[0]} (and {n - 1} more); no file was written" in str(caught.value)
    assert caught.value.exit_code == 4
    require_parity(dataclasses.replace(report, failures=()))


def test_the_reports_json_holds_no_nan_or_infinity():
    """Strict JSON readers refuse NaN: perfect agreement is written as 999."""
    one = case()
    report = ParityReport(
        backend="b",
        tier="exact",
        agreements=(compare(one, reference_for(one), reference_for(one)),),
        failures=(),
    )
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text)["cases"][0]["psnr_between_db"] == 999.0


@pytest.mark.parametrize("name", ["phantom", "2048 x 2048, scanner units"])
def test_the_table_fits_a_terminal_of_80_columns(name):
    """A row that a terminal breaks has its figures below wrong heads."""
    one = case()
    near = compare(one, reference_for(one), 1.01 * reference_for(one))
    same = compare(one, reference_for(one), reference_for(one))
    report = ParityReport(
        backend="ort-cpu",
        tier="exact",
        agreements=tuple(dataclasses.replace(found, case=name) for found in (near, same)),
        failures=(),
    )
    lines = report.as_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert len({len(line) for line in lines[1:]}) == 1
    assert "inf" in lines[-1]


# --- files that exist -----------------------------------------------------------------------------


def test_an_existing_file_is_refused_without_force(checkpoint_file, tmp_path):
    """A model in use is not replaced by accident: exit 7, and not a byte changed."""
    target = tmp_path / "m.onnx"
    target.write_bytes(b"precious")
    result = invoke("export", checkpoint_file, "-o", target)
    assert result.exit_code == 7
    assert result.stderr == f"error: {target} exists\nhint: replace it with --force\n"
    assert target.read_bytes() == b"precious"


def test_force_replaces_only_by_a_model_that_passed(monkeypatch, checkpoint_file, tmp_path):
    """--force is about the file, not about the gate."""
    target = tmp_path / "m.onnx"
    target.write_bytes(b"precious")
    with monkeypatch.context() as patch:
        plant_one_percent(patch)
        assert invoke("export", checkpoint_file, "-o", target, "--force").exit_code == 4
    assert target.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [target]
    assert invoke("export", checkpoint_file, "-o", target, "--force", "-q").exit_code == 0
    assert load_model(target).spec.name == "tiny-dc-residual-x2"


def test_a_place_that_cannot_be_written_exits_7(checkpoint_file, tmp_path):
    """The folder of the output is a file: an output error, not an internal one."""
    (tmp_path / "blocked").write_text("a file")
    result = invoke("export", checkpoint_file, "-o", tmp_path / "blocked" / "m.onnx", "-q")
    assert result.exit_code == 7
    assert result.stderr.startswith(f"error: cannot write {tmp_path / 'blocked' / 'm.onnx'}: ")


def test_what_is_no_checkpoint_exits_2(tmp_path):
    """Text instead of weights: one line, one hint, no file."""
    (tmp_path / "notes.pt").write_text("weights to follow")
    result = invoke("export", tmp_path / "notes.pt", "-o", tmp_path / "m.onnx")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'notes.pt'}: not a readable checkpoint: ")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("backend", ["zero-fill", "cuda"])
def test_the_gate_does_not_run_on_what_is_no_model_backend(checkpoint_file, tmp_path, backend):
    """A typo in --backend must not turn the gate off."""
    result = invoke("export", checkpoint_file, "-o", tmp_path / "m.onnx", "--backend", backend)
    assert result.exit_code == 2
    assert f"'{backend}'" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "runtime", "ways"),
    [
        ("fp32", "ort-cpu", ""),
        ("int8", "ort-cpu", "--runtime openvino rounds less; --calibrate-on DIR"),
        ("int8", "openvino", "--calibrate-on DIR"),
        ("bf16", "openvino", "--precision fp16 passes the gate (90 dB on openvino)"),
    ],
)
def test_who_is_refused_a_precision_hears_what_may_help(monkeypatch, precision, runtime, ways):
    """Of the runtime, of calibration, and of 16 bits as far as those pass."""
    wide = load_model(resolve_model("x2-fast", upscale=None))
    reference = proof.Reference(run=lambda lr: lr, name="none")

    def said(agreement):
        monkeypatch.setattr(proof, "_agreement_in", lambda *_, **__: agreement)
        return proof._advice(wide, reference, precision, runtime=runtime, backend=runtime)

    passes, fails = said(90.0), said(None)
    assert passes.startswith(ways)
    assert bool(passes) == bool(ways)
    if precision != "fp32":
        assert "--precision fp16 passes the gate (90 dB" in passes
        assert ("bf16 passes" in passes) == (runtime == "openvino" and precision == "int8")
        assert "passes" not in fails
        assert fails.endswith("does not pass it either: use the model in fp32")
