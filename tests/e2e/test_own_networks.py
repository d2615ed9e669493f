"""Every command with networks of the user's own: each kind of model file runs, or is refused.

What a command cannot take, it says in one sentence with a hint, and leaves no file.
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
import small_benchmark
from foreign_networks import model, saved, shuffle_network
from node_cases import Running, TargetServer, make_series, send, wait_until
from phantom_patients import save_heads
from pydicom import dcmread, dcmwrite
from repository import ROOT
from torch_exporter import _exporter_is_loaded  # noqa: F401 - of every test here
from typer.testing import CliRunner
from volume_files import save_nifti, smooth

import kspacesr_rt as ks
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import centre_crop, fft2c
from kspacesr_rt.model.file import load_model
from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.node import parse_target
from kspacesr_rt.services.watch import WatchOptions, watch

MATRIX = (32, 28)
"""Of the series that `make_series` writes; the network of one matrix takes it and no other."""
NETWORKS = ROOT / "tests" / "support" / "small_networks.py"
MADE = {
    "own": ("export", f"{NETWORKS}:Net", "--data-consistency", "hard"),
    "multiple": ("export", f"{NETWORKS}:Windows", "--multiple", "8"),
    "fixed": ("export", f"{NETWORKS}:Net", "--fixed-matrix", "32x28"),
    "kspace": ("export", f"{NETWORKS}:FromKspace", "--input", "kspace"),
    "adopted": ("adopt", "theirs.onnx", "--channels", "3", "--range", "0..1"),
}
"""How each kind of model file is made."""
OF_IMAGES = ("own", "multiple", "fixed", "adopted")
NO_IMAGES = "takes k-space, and image files hold magnitudes without a phase"


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def said(result):
    return " ".join((result.stdout + result.stderr).split())


def refused(result, sentence, folder=None):
    """Check that a command ended with one sentence that holds these words, and left no file."""
    assert result.exit_code in (2, 4), said(result)
    assert result.stderr.count("error: ") == 1, said(result)
    assert sentence in said(result)
    assert folder is None or not folder.exists()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Make a model file of each kind, by the command line; treat them as read-only."""
    folder = tmp_path_factory.mktemp("kinds")
    axes = {"axes": ("n", 3, "h", "w"), "sr_axes": ("n", 3, "2*h", "2*w")}
    theirs = saved(folder / "theirs.onnx", model(*shuffle_network(channels=3), **axes))
    for kind, (command, source, *options) in MADE.items():
        named = theirs if command == "adopt" else source
        result = cli(command, named, "-o", folder / f"{kind}.onnx", "--upscale", "2", *options)
        assert result.exit_code == 0, said(result)
    return {kind: folder / f"{kind}.onnx" for kind in MADE}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Three slices of the one matrix that the network of one matrix takes."""
    return make_series(tmp_path_factory.mktemp("series"), 1)[0].parent


@pytest.fixture(scope="module")
def hr(tmp_path_factory):
    """Two slices of twice the one matrix, so that the LR that is made of them has it."""
    folder = tmp_path_factory.mktemp("hr")
    paths = sorted(sample_folder().glob("*.dcm"))[8:10]
    slices = np.stack([dcmread(path).pixel_array[80:144, 80:136] for path in paths])
    np.save(folder / "one_PD.npy", slices.astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def turned(tmp_path_factory, series):
    """Write another series, with rows and columns exchanged: it does not fit."""
    folder = tmp_path_factory.mktemp("turned")
    for path in make_series(folder, 2):
        ds = dcmread(path)
        pixels = np.ascontiguousarray(ds.pixel_array.T)
        (ds.Rows, ds.Columns), ds.PixelData = pixels.shape, pixels.tobytes()
        dcmwrite(path, ds, enforce_file_format=True)
    return folder


def infer(files, kind, source, out, *more):
    result = cli("infer", source, out, "--model", files[kind], "--backend", "ort-cpu", *more)
    return result, json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("kind", MADE)
def test_inspect_says_what_it_takes_and_promises(files, kind):
    result = cli("inspect", files[kind])
    assert result.exit_code == 0
    assert {
        "own": "any matrix",
        "multiple": "multiples of 8",
        "fixed": "32 x 28 only",
        "kspace": "k-space",
        "adopted": "3 channels",
    }[kind] in said(result)
    consistency = "hard" if kind == "own" else "not declared"
    assert f"data consistency: {consistency}" in said(result)


@pytest.mark.parametrize("kind", MADE)
def test_verify_computes_the_stored_answer(files, kind):
    result = cli("verify", files[kind], "--backend", "ort-cpu")
    assert result.exit_code == 0, said(result)
    assert "100 required" in said(result)


@pytest.mark.parametrize("kind", MADE)
def test_infer_takes_a_dicom_folder(files, series, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "kspace":
        words = ["infer", series, out, "--model", files[kind], "--backend", "ort-cpu"]
        refused(cli(*words), NO_IMAGES, out)
        return
    result, report = infer(files, kind, series, out)
    assert result.exit_code == 0, said(result)
    assert [one["outcome"] for one in report["slices"]] == ["written"] * 3
    outputs = [dcmread(path) for path in out.rglob("*.dcm")]
    assert {(ds.Rows, ds.Columns) for ds in outputs} == {(64, 56)}
    if kind != "own":
        return
    for path in series.glob("*.dcm"):  # what is declared holds in the file that is written
        lr = dcmread(path)
        (sr,) = (
            ds
            for ds in outputs
            if ds.SourceImageSequence[0].ReferencedSOPInstanceUID == lr.SOPInstanceUID
        )
        slope, intercept = float(sr.RescaleSlope), float(sr.RescaleIntercept)
        kspace = centre_crop(fft2c(sr.pixel_array * slope + intercept), MATRIX) / 2
        measured = fft2c(lr.pixel_array.astype(float))
        inner = (slice(1, None), slice(1, None))  # not the Nyquist frequencies: a real image's
        assert np.abs((kspace - measured)[inner]).max() < 1e-3 * np.abs(measured).max()


@pytest.mark.parametrize("kind", MADE)
def test_infer_takes_nifti(files, tmp_path, kind):
    source = save_nifti(tmp_path / "volume.nii.gz", smooth((28, 32, 3)).astype(np.float32))
    out = tmp_path / "out"
    words = ["infer", source, out, "--model", files[kind], "--backend", "ort-cpu"]
    result = cli(*words, "--plane", "third")
    if kind == "kspace":
        refused(result, NO_IMAGES, out)
        return
    assert result.exit_code == 0, said(result)
    (made,) = out.rglob("*.nii.gz")
    assert nibabel.load(made).shape == (56, 64, 3)


def test_a_series_that_does_not_fit_fails_slice_by_slice_and_others_go_on(
    files, series, turned, tmp_path
):
    """`matrix` is the word for it, beside what does fit; exit code 8."""
    both = tmp_path / "both"
    for number, folder in enumerate((series, turned)):
        shutil.copytree(folder, both / str(number))
    result, report = infer(files, "fixed", both, tmp_path / "out")
    assert result.exit_code == 8
    outcomes = sorted((one["outcome"], one["reason"]) for one in report["slices"])
    assert outcomes == [("failed", "matrix")] * 3 + [("written", "")] * 3
    assert "28 x 32: the network 'fixed' takes 32 x 28 only" in said(result)
    result, report = infer(files, "multiple", both, tmp_path / "padded")
    assert result.exit_code == 0, said(result)
    assert {one["outcome"] for one in report["slices"]} == {"written"}


@pytest.mark.parametrize("kind", MADE)
def test_evaluate_sets_it_beside_zero_filling(files, hr, kind):
    result = cli("evaluate", hr, "--model", files[kind], "--json", "--quiet")
    if kind == "kspace":  # judged on measured k-space, and these are images
        refused(result, "expected complex k-space (n, ky, kx), found")
        return
    assert result.exit_code == 0, said(result)
    assert load_model(files[kind]).spec.name in result.stdout
    assert "zero-fill" in result.stdout


@pytest.mark.parametrize("kind", MADE)
def test_diagnose_goes_through_its_nodes(files, kind):
    result = cli("diagnose", files[kind], "--threads", "1")
    assert result.exit_code == 0, said(result)
    assert "AGREE" in result.stdout


PRECISIONS = {
    ("own", "int8"): "",
    ("fixed", "bf16"): "",
    ("multiple", "fp16"): "",
    ("adopted", "int8"): "",
    ("kspace", "fp16"): "",
    ("multiple", "int8"): "no convolution in it could compute in int8",
    ("kspace", "bf16"): "does not compute what kspace in fp32 (ort-cpu) computes",
}
"""What each conversion is refused with: nothing, or a sentence. Others are alike."""


@pytest.mark.parametrize(("kind", "precision"), PRECISIONS)
def test_convert_proves_a_precision_or_writes_nothing(files, tmp_path, kind, precision):
    made = tmp_path / "made.onnx"
    result = cli("convert", files[kind], "-o", made, "--precision", precision, "--quiet")
    sentence = PRECISIONS[kind, precision]
    if sentence:
        refused(result, sentence, made)
        return
    assert result.exit_code == 0, said(result)
    before, after = load_model(files[kind]).spec, load_model(made).spec
    assert after.precision == precision
    same = ("fixed_matrix", "matrix_multiple", "input", "data_consistency", "output_grid")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]


@pytest.mark.parametrize("kind", MADE)
def test_a_model_repository_is_made_of_it(files, tmp_path, kind):
    repository = tmp_path / "repository"
    result = cli("export", files[kind], "--triton", repository)
    assert result.exit_code == 0, said(result)
    size = "32x28" if kind == "fixed" else "128x128"
    (folder,) = (path.parent for path in repository.glob("*/config.pbtxt"))
    assert folder.name == f"{load_model(files[kind]).spec.name}-{size}"


@pytest.mark.parametrize("kind", ["fixed", "kspace"])
def test_build_makes_an_engine_of_images(files, tmp_path, kind):
    """Without a GPU; of one that takes one matrix, no other is built."""
    pytest.importorskip("tensorrt_rtx")
    engine = tmp_path / "m.engine"
    words = ["build", files[kind], "-o", engine, "--gpu", "sm89", "--matrix"]
    if kind == "kspace":
        refused(cli(*words, *MATRIX), "takes k-space, and engines are built for images", engine)
        return
    refused(cli(*words, 28, 32), "takes 32 x 28 only", engine)
    result = cli(*words, *MATRIX)
    assert result.exit_code == 0, said(result)
    assert engine.stat().st_size > 0


TRUST = {
    "fixed": "takes one matrix only",
    "adopted": "does not answer on the grid of k-space",
    "kspace": NO_IMAGES,
}


@pytest.mark.parametrize("kind", ["own", *TRUST])
def test_trust_is_calibrated_or_says_why_not(files, tmp_path, kind):
    """A copy of the file is written to; one that is refused stays as it was."""
    path = tmp_path / "copy.onnx"
    shutil.copy(files[kind], path)
    heads = save_heads(tmp_path / "heads", patients=2, noise=0.02, n=1)
    words = ["trust", heads, "--model", path, "--calibrate-on", heads, "--threads", "1"]
    result = cli(*words, "--quiet")
    if kind in TRUST:
        refused(result, TRUST[kind])
        assert path.read_bytes() == files[kind].read_bytes()
        return
    assert result.exit_code == 0, said(result)
    assert load_model(path).spec.trust["measured"]


@pytest.mark.parametrize("kind", ["fixed", "kspace"])
def test_bench_measures_it(files, hr, tmp_path, monkeypatch, kind):
    """One row, once: the network of one matrix on data that has it."""
    small_benchmark.take_their_place(monkeypatch)
    rows = tmp_path / "rows.json"
    words = ["bench", "--model", files[kind], "--data", hr, "--no-peers", "--budget", "1"]
    words += ["--only", "ort-cpu", "--only", "gemm", "--only", "fp32", "-o", rows, "--quiet"]
    result = cli(*words)
    if kind == "kspace":
        refused(result, NO_IMAGES, rows)
        return
    assert result.exit_code == 0, said(result)
    stored = json.loads(rows.read_text())["rows"]
    assert any(
        row["plan"]["lowering"] == "gemm" and row["status"] in ("ok", "unstable") for row in stored
    )


# Services ----------------------------------------------------------------------------------------


def options_of(files, kind):
    return InferOptions(model=str(files[kind]), backend="ort-cpu", threads=1)


@pytest.mark.parametrize("kind", ["multiple", "fixed", "adopted"])
def test_a_node_sends_what_fits_and_keeps_the_rest(files, series, turned, tmp_path, kind):
    """Every C-STORE is answered with success; the reason stands beside what is kept."""
    spool = tmp_path / "spool"
    sources = [sorted(folder.glob("*.dcm")) for folder in (series, turned)]
    fit = 3 if kind == "fixed" else 6
    with TargetServer() as target:
        how = {
            "targets": (parse_target(target.name),),
            "series_timeout_s": 0.5,
            "released_timeout_s": 0.1,
        }
        with Running(spool, infer=options_of(files, kind), **how) as node:
            for paths in sources:
                assert send(node.port, paths) == [0x0000] * 3
            target.wait_for(fit)
            wait_until(lambda: node.text.getvalue().count("event=processed") == 2, "both series")
            if kind == "fixed":
                wait_until(lambda: list(spool.glob("quarantined/*/reasons.json")), "quarantine")
    assert len(target.received) == fit
    kept = list(spool.glob("quarantined/*/reasons.json"))
    assert len(kept) == (1 if kind == "fixed" else 0)
    for path in kept:
        assert set(json.loads(path.read_text()).values()) == {"failed: matrix"}
        assert len(list((path.parent / "in").iterdir())) == 3


@pytest.mark.parametrize("command", ["serve", "watch"])
def test_a_service_does_not_begin_with_a_network_of_kspace(files, tmp_path, command):
    """A node that listened would quarantine all that comes."""
    (tmp_path / "in").mkdir()
    places = {
        "serve": ("--forward", "PACS@127.0.0.1:104", "--spool", tmp_path / "spool", "--port", "0"),
        "watch": (tmp_path / "in", tmp_path / "out"),
    }[command]
    result = cli(command, *places, "--model", files["kspace"], "--backend", "ort-cpu")
    refused(result, NO_IMAGES)


def test_a_watched_folder_with_a_network_of_one_matrix(files, series, turned, tmp_path):
    """What fits is written, the rest is reported with its reason."""
    landing, out, stop = tmp_path / "in", tmp_path / "out", threading.Event()
    landing.mkdir()
    raised: list[Exception] = []

    def run():
        try:
            how = WatchOptions(settle_s=0.2, poll_s=0.05)
            options = options_of(files, "fixed")
            watch(landing, out, options, how, log=Log(quiet=True), stop_requested=stop.is_set)
        except Exception as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for folder in (series, turned):
            shutil.copytree(folder, landing / folder.name)
        wait_until(
            lambda: raised or len(outcomes_of(out)) == 6, "six slices in the report of the watch"
        )
    finally:
        stop.set()
        thread.join(60)
    assert not raised
    assert outcomes_of(out) == [("failed", "matrix")] * 3 + [("written", "")] * 3


def outcomes_of(out: Path) -> list[tuple[str, str]]:
    report = out / "report.json"
    if not report.exists():
        return []
    slices = json.loads(report.read_text())["slices"]
    return sorted((one["outcome"], one["reason"]) for one in slices)


@pytest.mark.parametrize("kind", ["multiple", "fixed", "kspace"])
def test_mercure_keeps_a_case_back_that_does_not_fit(files, turned, tmp_path, monkeypatch, kind):
    """Its notification names the reason."""
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(turned, source)
    out.mkdir()
    settings = {"model": str(files[kind]), "backend": "ort-cpu"}
    (source / "task.json").write_text(json.dumps({"process": {"settings": settings}}))
    monkeypatch.setenv("MERCURE_IN_DIR", str(source))
    monkeypatch.setenv("MERCURE_OUT_DIR", str(out))
    result = cli("mercure")
    text = json.loads((out / "result.json").read_text())["__mercure_notification"]["text"]
    expected = {
        "multiple": (0, "3 slices x2 by multiple"),
        "fixed": (8, "3 failed: matrix"),
        "kspace": (2, NO_IMAGES),
    }
    code, words = expected[kind]
    assert result.exit_code == code
    assert words in text
    assert len(list(out.glob("*.dcm"))) == (3 if kind == "multiple" else 0)


def test_kspace_runs_from_python(files):
    """As the hint of every refusal says."""
    rng = np.random.default_rng(0)
    given = (rng.normal(size=(2, 20, 17)) + 1j * rng.normal(size=(2, 20, 17))).astype(np.complex64)
    with ks.load(files["kspace"], backend="ort-cpu") as opened:
        assert opened(given).shape == (2, 40, 34)
    with ks.load(files["fixed"], backend="ort-cpu") as opened:
        assert opened(np.ones(MATRIX, np.float32)).shape == (64, 56)
        with pytest.raises(InputError, match="32 x 28 only"):
            opened(np.ones((28, 32), np.float32))
