"""Backends of other packages: found without an import; a broken one hurts nothing else."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from dicom_fixtures import build
from planted_packages import ON_ORT, ROW, plant
from pydicom import dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.errors import BackendUnavailableError, InputError, PluginError, ShapeError
from kspacesr_rt.model.binding import bind
from kspacesr_rt.runtime import selection
from kspacesr_rt.runtime.backends import (
    BACKENDS,
    BackendOptions,
    auto_plugins,
    backend_info,
    backend_names,
    every_backend,
    left_out_plugins,
    open_backend,
    require_available,
)
from kspacesr_rt.runtime.doctor import diagnose_machine
from kspacesr_rt.runtime.selection import AUTO, choose_backend
from kspacesr_rt.runtime.self_test import Verification
from kspacesr_rt.runtime.self_test_cache import VerificationCache, VerificationInputs

MATRIX = (12, 9)
ONE_THREAD = BackendOptions(threads=1)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Put a folder on Python's path, into which packages can be laid; forget its modules."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [one for one in sys.modules if one.startswith("planted")]:
        del sys.modules[name]


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def batch_of(n=2):
    return np.random.default_rng(0).random((n, 1, *MATRIX)).astype(np.float32)


def test_a_package_adds_a_backend(site, model):
    """Under its own name, beside ours, with the same result from the same runtime."""
    plant(site)
    row = every_backend()["own"]
    assert (row.package, row.why_not()) == ("planted-own 1.5", None)
    with (
        open_backend("own", bind(model, MATRIX), ONE_THREAD) as backend,
        open_backend("ort-cpu", bind(model, MATRIX), ONE_THREAD) as ours,
    ):
        assert np.array_equal(backend.run(batch_of()), ours.run(batch_of()))
        assert (backend.spec.matrix, backend.notes, backend.transfer_s) == (MATRIX, (), 0.0)
        with pytest.raises(ShapeError):
            backend.run(batch_of()[:, 0])
    listed = invoke("backends")
    assert listed.exit_code == 0
    assert "own          yes  a runtime of its own" in listed.stdout
    assert json.loads(invoke("backends", "--json").stdout)["own"] == {
        "usable": True,
        "why_not": None,
        "hint": "it comes from the package planted-own 1.5, whose documentation should say",
        "package": "planted-own 1.5",
    }
    assert diagnose_machine().backends["own"] == "usable"


def test_the_command_line_takes_its_name(site, model_file):
    """`verify` as for ours; a wrong name is answered with this one too."""
    plant(site)
    done = invoke("verify", model_file, "--backend", "own")
    assert done.exit_code == 0, done.output
    assert " on own: " in done.stdout
    wrong = invoke("verify", model_file, "--backend", "lucky")
    assert wrong.exit_code == 2
    assert "'own'" in wrong.stderr.replace("│", " ")


def test_nothing_of_it_is_imported_until_it_is_needed(site, model, model_file, tmp_path):
    """Whoever runs `--backend ort-cpu` pays for no plug-in, and cannot be hurt by one."""
    module, inside = plant(site)
    assert "own" in backend_names()
    assert auto_plugins() == left_out_plugins() == ()
    backend_info("ort-cpu")
    with pytest.raises(InputError) as caught:
        backend_info("lucky")
    assert caught.value.hint == f"one of: {', '.join((*BACKENDS, 'own'))}"
    choose_backend(AUTO, model, ONE_THREAD, cache=VerificationCache(tmp_path / "kept"))
    assert invoke("verify", model_file, "--backend", "ort-cpu").exit_code == 0
    assert invoke("verify", model_file, "--backend", "lucky").exit_code == 2
    assert not sys.modules.keys() & {module, inside}
    require_available("own")
    assert module in sys.modules
    assert inside not in sys.modules  # its library is imported where it is opened


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("raise ValueError('no licence\\nsecond line')", "does not load (ValueError: no licence)"),
        ("import no_such_library", "does not load (ModuleNotFoundError: No module named "),
        ("import sys; sys.exit(3)", "does not load (RuntimeError: it ended the program: 3)"),
        ("this is no Python", "does not load (SyntaxError: "),
        ("OTHER = 1", "does not load (AttributeError: "),
        ("BACKEND = 'own'", "gives a str, not a BackendInfo"),
        (ROW.replace("{name!r}", "'another'"), "calls itself 'another'"),
        (
            ROW.replace('"a runtime of its own"', "7"),
            "gives a BackendInfo whose 'summary' is a int",
        ),
        (ROW.replace('own")', 'own", streams="yes")'), "whose 'streams' is a str"),
        (ROW.replace('own")', 'own", probe="nowhere")'), "'probe' is not module:function"),
    ],
)
def test_a_plug_in_without_a_usable_row_is_one_sentence(site, model, row, sentence):
    """In the list, from the doctor, and as the error of whoever names it."""
    plant(site, row=row)
    reason = every_backend()["own"].why_not()
    assert reason.startswith("backend 'own' of the package planted-own 1.5 ")
    assert sentence in reason
    assert "\n" not in reason
    listed = invoke("backends")
    assert listed.exit_code == 0
    assert reason in listed.stdout
    assert reason in diagnose_machine().problems
    with pytest.raises(BackendUnavailableError) as caught:
        open_backend("own", bind(model, MATRIX))
    assert str(caught.value) == reason
    assert caught.value.hint == "mend or remove that package; kspacesr-rt backends lists others"


def test_what_it_prints_when_imported_does_not_spoil_json(site):
    """Standard output is for one machine-readable object."""
    plant(site, row=ROW + "    print('welcome!')\n")
    shown = invoke("backends", "--json")
    assert json.loads(shown.stdout)["own"]["usable"] is True
    assert "welcome!" in shown.stderr


@pytest.mark.parametrize("name", ["ort-cpu", "zero-fill", "auto"])
def test_it_cannot_take_one_of_our_names(site, name):
    """Nobody's `ort-cpu` is replaced by installing a package."""
    module, _ = plant(site, name)
    (sentence,) = left_out_plugins()
    assert sentence == (
        f"backend '{name}' of the package {module.replace('_', '-')} 1.5 is left out: that name is "
        "taken by one of ours"
    )
    assert every_backend().keys() == BACKENDS.keys()
    assert f"warning: {sentence}" in invoke("backends").stderr
    assert sentence in diagnose_machine().problems
    assert module not in sys.modules


@pytest.mark.parametrize("name", ["Big", "two words", "-v", "x\x1b[2J", "a" * 41])
def test_a_name_that_cannot_be_typed_is_left_out(site, name):
    """And a name that is a terminal's command is not obeyed."""
    plant(site, name, module="planted_odd")
    (sentence,) = left_out_plugins()
    assert "names are of lower-case letters, digits and dashes" in sentence
    shown = invoke("backends")
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stderr


def test_a_name_that_two_packages_announce_is_nobodys(site):
    """Which of them was meant is not for the order on disk to decide."""
    plant(site, module="planted_one")
    plant(site, module="planted_two")
    sentence = (
        "backend 'own' is left out: it is announced twice, by planted-one 1.5 and planted-two 1.5"
    )
    assert left_out_plugins() == (sentence,)
    with pytest.raises(InputError, match="no backend is called 'own'; backend 'own' is left out"):
        backend_info("own")


@pytest.mark.parametrize("text", ["[kspacesr_rt.backends]\nown\n", "own = x\n", "\udcff"])
def test_damaged_metadata_of_some_package_hurts_nobody(site, text):
    """The folder of a half-removed package must not end every command."""
    plant(site, "sound")
    plant(site, "own", entry_points="")
    path = site / "planted_own-1.5.dist-info" / "entry_points.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "sound" in backend_names()
    assert invoke("backends").exit_code == 0


def test_a_package_that_stands_twice_on_the_path_is_one(site, tmp_path, monkeypatch):
    """An editable checkout hides the installed version, as it does for Python."""
    hidden = tmp_path / "behind"
    hidden.mkdir()
    plant(hidden)
    plant(site)
    monkeypatch.setattr(sys, "path", [*sys.path, str(hidden)])
    assert left_out_plugins() == ()
    assert every_backend()["own"].package == "planted-own 1.5"


# What it opens ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        ("import no_such_library", "cannot be opened (ModuleNotFoundError: No module named"),
        ("OTHER = 1", "cannot be opened (AttributeError: "),
        ("def open_backend(name): pass", "cannot be opened (TypeError: "),
        ("def open_backend(*given): raise OSError('no device\\nat all')", "opened (OSError: no de"),
        ("def open_backend(*given): raise SystemExit(4)", "cannot be opened (SystemExit: 4)"),
        ("def open_backend(*given): pass", "opens a NoneType, which has no run and no __enter__"),
        (ON_ORT.replace("def run", "def infer"), "opens a Own, which has no run"),
        (ON_ORT.replace("return self\n", "return 3\n"), "enters as a int, which has no run"),
        (ON_ORT.replace("return self\n", "raise OSError('busy')\n"), "opened (OSError: busy)"),
    ],
)
def test_what_is_no_backend_is_one_sentence(site, model, model_file, backend, sentence):
    """Before any slice, with exit code 3: the backend that was asked for cannot run here."""
    plant(site, backend=backend)
    with (
        pytest.raises(BackendUnavailableError) as caught,
        open_backend("own", bind(model, MATRIX), ONE_THREAD),
    ):
        pass
    assert sentence in str(caught.value)
    assert "planted-own 1.5" in str(caught.value)
    assert "\n" not in str(caught.value)
    done = invoke("verify", model_file, "--backend", "own")
    assert done.exit_code == 3
    assert done.stderr.startswith("error: backend 'own' of the package planted-own 1.5 ")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("raise ValueError('Doe^John')", "failed (ValueError at planted_own_backend.py:9)"),
        ("return None", "returned a NoneType, expected float32 (2, 1, 24, 18)"),
        ("return self.inner.run(batch)[:1]", "returned float32 (1, 1, 24, 18), expected"),
        ("return self.inner.run(batch)[:, 0]", "returned float32 (2, 24, 18), expected"),
        ("return self.inner.run(batch).astype(float)", "returned float64 (2, 1, 24, 18)"),
        ("return self.inner.run(batch).tolist()", "returned a list, expected"),
        ("return batch", "returned float32 (2, 1, 12, 9), expected"),
    ],
)
def test_a_result_that_is_none_is_one_sentence(site, model, line, sentence):
    """Without a value that its error may quote: a patient's name can stand in it."""
    plant(site, backend=ON_ORT.replace("return self.inner.run(batch)", line))
    with (
        open_backend("own", bind(model, MATRIX), ONE_THREAD) as backend,
        pytest.raises(PluginError) as caught,
    ):
        backend.run(batch_of())
    assert sentence in str(caught.value)
    assert "Doe" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_one_slice_that_fails_leaves_the_others(site, model_file, tmp_path):
    """As with our own backends: the report names the slice, the rest is written."""
    lines = """if batch.max() > 900.0:
                raise ValueError("too bright")
            return self.inner.run(batch)"""
    plant(site, backend=ON_ORT.replace("return self.inner.run(batch)", lines))
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number, top in enumerate((500, 1000, 500)):
        y, x = np.mgrid[:20, :24]
        pixels = (top * np.exp(-((y - 9) ** 2 + (x - 12) ** 2) / 18)).astype(np.uint16)
        ds = build(pixels, SOPInstanceUID=f"1.2.3.4.{number}")
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dcmwrite(folder / f"{number}.dcm", ds, enforce_file_format=True)
    done = invoke("infer", folder, out, "--model", model_file, "--backend", "own", "--batch", 1)
    assert done.exit_code == 8, done.output
    report = json.loads((out / "report.json").read_text())
    outcomes = [(one["outcome"], one["reason"], one["message"]) for one in report["slices"]]
    assert [outcome for outcome, _, _ in outcomes] == ["written", "failed", "written"]
    assert outcomes[1][1] == "backend"
    assert "backend 'own' of the package planted-own 1.5 failed (ValueError at " in outcomes[1][2]
    assert len(list(out.rglob("*.dcm"))) == 2


# auto -------------------------------------------------------------------------------------------


def figures(model, backend, decibels=140.0):
    return Verification(
        model=model.spec.name,
        backend=backend,
        psnr_between_db=decibels,
        max_error=0.0,
        required_db=100.0,
    )


@pytest.fixture
def apart(monkeypatch, model):
    """Say what a verification in a process of its own gives; unit tests start none."""
    gives = {"own": figures(model, "own")}

    def verified(path, backend, options):
        if isinstance(gives[backend], Exception):
            raise gives[backend]
        return gives[backend]

    monkeypatch.setattr(selection, "verify_in_subprocess", verified)
    return gives


def test_auto_takes_it_only_if_it_asks_for_that(site, model, tmp_path, apart):
    """Installing a package does not change what computes, unless it was made to."""
    plant(site, "quiet")
    cache = VerificationCache(tmp_path / "kept")
    assert choose_backend(AUTO, model, ONE_THREAD, cache=cache).backend in BACKENDS
    plant(site, "own", group="kspacesr_rt.backends.auto")
    choice = choose_backend(AUTO, model, ONE_THREAD, cache=cache)
    assert choice.backend == "own"
    assert "a plug-in that asks for it, of the package planted-own 1.5 (140.0 dB" in choice.reason
    assert choose_backend(AUTO, model, ONE_THREAD, cache=cache).cached


@pytest.mark.parametrize(
    ("gives", "reason"),
    [
        (BackendUnavailableError("its library crashed (SIGSEGV)"), "its library crashed (SIGSEGV)"),
        (20.0, "only 20.0 dB against the stored answer, 100 required"),
    ],
)
def test_auto_passes_it_over_if_it_does_not_verify(site, model, tmp_path, apart, gives, reason):
    """And says so; ours comes next."""
    plant(site, group="kspacesr_rt.backends.auto")
    apart["own"] = gives if isinstance(gives, Exception) else figures(model, "own", gives)
    choice = choose_backend(AUTO, model, ONE_THREAD, cache=VerificationCache(tmp_path / "kept"))
    assert choice.backend in BACKENDS
    assert {one.backend: one.reason for one in choice.passed_over}["own"] == reason


def test_auto_passes_over_what_does_not_load(site, model, tmp_path):
    """A broken package costs a sentence, not the run."""
    plant(site, row="raise ValueError('no licence')", group="kspacesr_rt.backends.auto")
    choice = choose_backend(AUTO, model, ONE_THREAD, cache=VerificationCache(tmp_path / "kept"))
    assert choice.backend in BACKENDS
    (over,) = [one.reason for one in choice.passed_over if one.backend == "own"]
    assert over == "of the package planted-own 1.5 does not load (ValueError: no licence)"


def test_a_verification_is_of_a_version(site, model):
    """A new version of the plug-in, or of what it requires, is verified anew."""
    plant(site, requires=("numpy>=2", "no-such-distribution; extra == 'x'"))
    versions = VerificationInputs.of(model, "own").versions
    assert "planted-own 1.5" in versions
    assert f"numpy {np.__version__}" in versions
