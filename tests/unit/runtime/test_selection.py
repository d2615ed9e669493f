"""`auto`: the first backend of the order that gives the stored answer, and why not the others."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from types import SimpleNamespace

import numpy as np
import pytest

from kspacesr_rt.errors import BackendUnavailableError, InputError, ModelFileError, OutputError
from kspacesr_rt.model.file import KNOWN_ANSWER_KEY, parse_model
from kspacesr_rt.runtime import selection, self_test_cache
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions
from kspacesr_rt.runtime.selection import AUTO, PREFERENCE, choose_backend
from kspacesr_rt.runtime.self_test import Verification
from kspacesr_rt.runtime.self_test_cache import (
    VerificationCache,
    VerificationInputs,
    read_verification,
)

ONE_THREAD = BackendOptions(threads=1)


def figures(backend: str, decibels: float, name: str = "m") -> Verification:
    return Verification(
        model=name,
        backend=backend,
        psnr_between_db=decibels,
        max_error=10.0 ** (-decibels / 20.0),
        required_db=100.0,
    )


@pytest.fixture
def cache(tmp_path):
    return VerificationCache(tmp_path / "verified")


@pytest.fixture
def machine(monkeypatch, model):
    """Pretend which backends are here and what each gives: decibels, or an error."""

    def make(**gives):
        named = {name.replace("_", "-"): value for name, value in gives.items()}
        calls = []
        monkeypatch.setattr(
            type(BACKENDS["ort-cpu"]),
            "why_not",
            lambda info: None if info.name in named else f"backend '{info.name}' is not here",
        )

        def verify(model, backend, options):
            calls.append(backend)
            if isinstance(named[backend], Exception):
                raise named[backend]
            return figures(backend, named[backend], model.spec.name)

        monkeypatch.setattr(selection, "_verified", verify)
        return calls

    return make


def test_the_order_names_every_backend_that_runs_models():
    """A new backend must get a place in the order, or be left out on purpose."""
    runs = {name for name, info in BACKENDS.items() if info.model}
    assert {*PREFERENCE, "ort-webgpu"} == runs  # nobody has measured it on a GPU yet
    assert set(PREFERENCE) == selection.MERITS.keys()
    assert self_test_cache.LIBRARIES.keys() == runs


def test_the_first_that_verifies_is_taken_and_every_other_has_a_reason(machine, model, cache):
    """A clinic reads why its GPU is not used; it does not guess."""
    broken = BackendUnavailableError("its library crashed (SIGSEGV)")
    calls = machine(tensorrt=broken, ort_tensorrt=78.2, openvino=140.0, ort_cpu=150.0)
    choice = choose_backend(AUTO, model, cache=cache)
    assert (choice.asked, choice.backend, choice.cached) == ("auto", "openvino", False)
    assert {one.backend: one.reason for one in choice.passed_over} == {
        "tensorrt": "its library crashed (SIGSEGV)",
        "tensorrt-rtx": "is not here",
        "ort-tensorrt": "only 78.2 dB against the stored answer, 100 required",
        "ort-cuda": "is not here",
    }
    assert calls == ["tensorrt", "ort-tensorrt", "openvino"]
    assert choice.reason == (
        "chosen by auto: the fast path on CPUs (140.0 dB against the stored answer, 100 required)"
    )
    lines = choice.as_text(verbose=True).splitlines()
    assert [line.split(" (")[0] for line in lines[1:]] == [
        f"  passed over: {one.backend}" for one in choice.passed_over
    ]
    assert "tensorrt (its library crashed (SIGSEGV))" in choice.as_text(verbose=True)
    assert json.loads(json.dumps(choice.to_dict(), allow_nan=False))["backend"] == "openvino"


def test_a_gpu_comes_before_the_cpu(machine, model, cache):
    """And nothing behind the chosen one is even tried."""
    calls = machine(tensorrt=130.0, openvino=140.0, ort_cpu=150.0)
    assert choose_backend(AUTO, model, cache=cache).backend == "tensorrt"
    assert calls == ["tensorrt"]


def test_a_folder_that_was_begun_keeps_its_backend(machine, model, cache):
    """Another installation must not keep a run from being completed by the same command."""
    calls = machine(openvino=140.0, ort_cpu=150.0)
    choice = choose_backend(AUTO, model, cache=cache, begun_with="ort-cpu")
    assert (choice.asked, choice.backend, calls) == ("auto", "ort-cpu", ["ort-cpu"])
    assert selection.BEGUN in choice.as_text()


@pytest.mark.parametrize("begun_with", ["ort-cpu", "tensorrt", "zero-fill", "nothing", None])
def test_what_cannot_go_on_is_passed_over(machine, model, cache, begun_with):
    """Gone, wrong here now, or never chosen by auto: the order holds, and the folder says no."""
    machine(openvino=140.0, ort_cpu=20.0)
    choice = choose_backend(AUTO, model, cache=cache, begun_with=begun_with)
    assert choice.backend == "openvino"
    assert selection.BEGUN not in choice.as_text(verbose=True)


def test_where_nothing_verifies_there_is_no_choice(machine, model, cache):
    """Never zero-fill, never the least bad."""
    machine(openvino=20.0, ort_cpu=99.9)
    with pytest.raises(BackendUnavailableError, match=r"openvino: only 20\.0 dB") as caught:
        choose_backend(AUTO, model, cache=cache)
    assert "ort-cpu: only 99.9 dB against the stored answer, 100 required" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_named_backend_is_taken_as_it_is_or_refused(machine, model, cache):
    """Naming one skips the choice: no verification, no replacement."""
    calls = machine(openvino=20.0)
    choice = choose_backend("openvino", model, cache=cache)
    assert (choice.backend, choice.as_text()) == ("openvino", "backend openvino: asked for")
    with pytest.raises(BackendUnavailableError, match="'ort-cpu' is not here"):
        choose_backend("ort-cpu", model, cache=cache)
    with pytest.raises(InputError, match="no backend is called 'best'"):
        choose_backend("best", model, cache=cache)
    assert calls == []


def test_a_model_without_a_known_answer_is_the_models_error(machine, model, cache):
    """Six backends passed over would hide that the file is at fault."""
    calls = machine(ort_cpu=150.0)
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    kept = [one for one in proto.metadata_props if one.key != KNOWN_ANSWER_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    bare = parse_model(proto.SerializeToString(), name="bare.onnx")
    with pytest.raises(ModelFileError, match=r"bare\.onnx carries no known answer"):
        choose_backend(AUTO, bare, cache=cache)
    assert calls == []


# --- what is kept ---------------------------------------------------------------------------------


def test_a_verification_is_measured_once(machine, model, cache):
    """Also one that failed: its figure is told again without a second run."""
    calls = machine(openvino=20.0, ort_cpu=150.0)
    first = choose_backend(AUTO, model, cache=cache)
    second = choose_backend(AUTO, model, cache=cache)
    assert calls == ["openvino", "ort-cpu"]
    assert (first.cached, second.cached) == (False, True)
    assert second.passed_over == first.passed_over
    assert cache.forget() == 2
    assert not choose_backend(AUTO, model, cache=cache).cached
    assert len(calls) == 4


def test_an_error_is_tried_again(machine, model, cache):
    """A GPU whose memory was full for a moment must not be shut out."""
    calls = machine(tensorrt=BackendUnavailableError("out of memory"), ort_cpu=150.0)
    for _ in range(2):
        choose_backend(AUTO, model, cache=cache)
    assert calls == ["tensorrt", "ort-cpu", "tensorrt"]


def damage_text(document):
    return "{" + json.dumps(document)


def damage_verdict(document):
    document["verification"]["passed"] = False
    return json.dumps(document)


def damage_figure(document):
    document["verification"]["psnr_between_db"] = None
    return json.dumps(document)


def damage_error(document):
    document["verification"]["max_error"] = float("nan")
    return json.dumps(document)


def damage_inputs(document):
    document["inputs"]["versions"] = "kspacesr-rt 0.0"
    return json.dumps(document)


def damage_limit(document):
    document["verification"]["required_db"] = 10.0
    return json.dumps(document)


def damage_schema(document):
    return json.dumps(document | {"schema": 0})


@pytest.mark.parametrize(
    "damage",
    [damage_text, damage_verdict, damage_figure, damage_error, damage_inputs, damage_limit,
     damage_schema, lambda document: "[]", lambda document: ""],
)  # fmt: skip
def test_a_damaged_or_stale_entry_is_measured_again(machine, model, cache, damage):
    """Half a file, another version's, or one whose verdict and figure disagree."""
    calls = machine(ort_cpu=150.0)
    choose_backend(AUTO, model, cache=cache)
    (path,) = cache.folder.glob("*.json")
    path.write_text(damage(json.loads(path.read_text())))
    assert not choose_backend(AUTO, model, cache=cache).cached
    assert calls == ["ort-cpu", "ort-cpu"]
    assert choose_backend(AUTO, model, cache=cache).cached


def test_nobody_else_can_say_what_was_verified(machine, model, cache):
    """Whatever the umask: whoever can write there decides which backend is trusted."""
    machine(ort_cpu=150.0)
    before = os.umask(0)
    try:
        choose_backend(AUTO, model, cache=cache)
    finally:
        os.umask(before)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_another_model_version_or_machine_is_another_entry(monkeypatch, model):
    """Everything that a result depends on is in the key."""
    key = VerificationInputs.of(model, "ort-cpu").key
    assert key == VerificationInputs.of(model, "ort-cpu").key
    assert key != VerificationInputs.of(model, "openvino").key
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    proto.doc_string = "another"
    assert key != VerificationInputs.of(dataclasses.replace(model, proto=proto), "ort-cpu").key
    real = self_test_cache.installed_versions
    for changed in ("numpy", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setattr(
                self_test_cache,
                "installed_versions",
                lambda names, changed=changed: real(names) | {changed: "9.9"},
            )
            assert key != VerificationInputs.of(model, "ort-cpu").key
    monkeypatch.setattr(self_test_cache, "current_gpu", lambda: SimpleNamespace(name="L4", sm=89))
    inputs = VerificationInputs.of(model, "ort-cpu")
    assert key != inputs.key
    assert inputs.machine.endswith("L4 sm89")


def test_a_folder_that_cannot_be_written_is_only_told(machine, model, cache, monkeypatch):
    """A read-only home must not keep a study from being processed."""
    machine(ort_cpu=150.0)

    def refuse(self, inputs, verification):
        raise OutputError("cannot make it: read-only")

    monkeypatch.setattr(VerificationCache, "keep", refuse)
    choice = choose_backend(AUTO, model, cache=cache)
    assert choice.backend == "ort-cpu"
    assert choice.notes == ("the verification was not kept: cannot make it: read-only",)


def test_a_failed_verification_survives_json():
    """NaN output is -inf dB, which JSON has no word for."""
    stored = figures("ort-cpu", -np.inf).to_dict()
    assert not read_verification(json.loads(json.dumps(stored, allow_nan=False))).passed


# --- for real -------------------------------------------------------------------------------------


def test_this_machine_has_a_backend_that_verifies(model, cache):
    """No pretence: whatever is installed here runs the tiny model's own answer."""
    choice = choose_backend(AUTO, model, ONE_THREAD, cache=cache)
    assert choice.verification is not None
    assert choice.verification.passed
    index = PREFERENCE.index(choice.backend)
    assert tuple(one.backend for one in choice.passed_over) == PREFERENCE[:index]


def test_gpu_backends_are_verified_apart_and_others_here(model, monkeypatch):
    """A library that takes its process with it must not take ours."""
    seen = []
    monkeypatch.setattr(selection, "verify_model", lambda *args: seen.append(("here", args[1])))
    monkeypatch.setattr(
        selection, "verify_in_subprocess", lambda *args: seen.append(("apart", args[1]))
    )
    for name in PREFERENCE:
        selection._verified(model, name, ONE_THREAD)
    assert {name: where for where, name in seen} == {
        "tensorrt": "apart",
        "tensorrt-rtx": "apart",
        "ort-tensorrt": "apart",
        "ort-cuda": "apart",
        "openvino": "here",
        "ort-cpu": "here",
    }


def test_backends_shows_the_choice(machine, model_file, model, monkeypatch, tmp_path):
    """Asked before a run: what would be taken, and why."""
    from typer.testing import CliRunner

    from kspacesr_rt.cli import app

    monkeypatch.setenv("KSPACESR_RT_CACHE", str(tmp_path))
    machine(openvino=20.0, ort_cpu=150.0)
    run = CliRunner().invoke
    text = run(app, ["backends", "--model", str(model_file)]).stdout
    assert f"auto takes ort-cpu for {model.spec.name}: chosen by auto" in text
    assert "  not openvino: only 20.0 dB" in text
    told = json.loads(run(app, ["backends", "--json", "--model", str(model_file)]).stdout)
    assert told["auto"]["choice"]["cached"] is True
    forgotten = run(app, ["backends", "--forget", "--json", "--model", str(model_file)])
    assert "2 verifications forgotten" in forgotten.stderr
    assert json.loads(forgotten.stdout)["auto"]["choice"]["cached"] is False
    machine(openvino=20.0)
    assert "auto takes none for" in run(app, ["backends", "--model", str(model_file)]).stdout
