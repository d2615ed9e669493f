"""A new machine checks itself before its first real slice: it passes, or it says why not."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
from onnx import helper
from phase_cases import spoil_phases
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.errors import BackendUnavailableError, InputError, ModelFileError, ParityError
from kspacesr_rt.model.file import KNOWN_ANSWER_KEY, parse_model
from kspacesr_rt.model.spec import METADATA_KEY
from kspacesr_rt.runtime import self_test
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions
from kspacesr_rt.runtime.self_test import Verification, require_verified, verify_model


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def distort(monkeypatch):
    """Return a function that lets every backend's result pass through a distortion."""
    real = self_test.open_backend

    def install(distortion) -> None:
        @contextmanager
        def opened(*arguments):
            with real(*arguments) as backend:

                class Distorted:
                    def run(self, batch):
                        """Run, then distort."""
                        return distortion(backend.run(batch))

                yield Distorted()

        monkeypatch.setattr(self_test, "open_backend", opened)

    return install


def test_the_reference_runtime_gives_the_stored_answer(model):
    """ONNX Runtime in fp32 against PyTorch in fp32: 120 dB and better, 100 are required."""
    result = verify_model(model, "ort-cpu")
    assert result.passed
    assert result.psnr_between_db > 120.0
    assert result.max_error < 1e-5
    assert (result.model, result.backend) == (model.spec.name, "ort-cpu")
    assert result.required_db == 100.0
    require_verified(result)


def test_psnr_and_largest_error_are_those_of_the_definition(model, distort):
    """Range is the stored answer's maximum; a wrong range would shift the bar unnoticed."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(model.known_answer().sr.shape).astype(np.float32)
    answer = model.known_answer().sr
    top = np.abs(answer).max()
    distort(lambda result: answer[None, None] + np.float32(1e-3) * top * noise)
    result = verify_model(model, "ort-cpu")
    expected = -20 * np.log10(1e-3 * np.sqrt(np.mean(noise.astype(float) ** 2)))
    assert result.psnr_between_db == pytest.approx(expected, abs=1e-3)
    assert result.max_error == pytest.approx(1e-3 * np.abs(noise).max(), rel=1e-3)


@pytest.mark.parametrize(
    ("distortion", "reason"),
    [
        (lambda result: result * np.float32(1.001), "1 per mille in intensity"),
        (lambda result: result.astype(np.float16).astype(np.float32), "half precision"),
        (lambda result: np.roll(result, 1, axis=-1), "one pixel to the side"),
        (lambda result: result[..., ::-1].copy(), "mirrored"),
        (np.zeros_like, "nothing computed"),
        (lambda result: np.where(result == result.max(), np.nan, result), "one NaN"),
        (lambda result: np.where(result == result.max(), np.inf, result), "one infinity"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_backend_that_computes_something_else_fails(model, distort, distortion, reason):
    """What TF32, a wrong FFT or a broken kernel would do; each must be far below the bar."""
    distort(distortion)
    result = verify_model(model, "ort-cpu")
    assert not result.passed, reason
    with pytest.raises(ParityError) as caught:
        require_verified(result)
    assert str(caught.value) == (
        f"model 'tiny-dc-residual-x2' on backend 'ort-cpu' gives {result.psnr_between_db:.1f} dB "
        "against its stored answer, 100 dB are required"
    )
    assert caught.value.hint == "do not use this backend here; kspacesr-rt backends lists others"
    assert caught.value.exit_code == 4


def test_the_way_of_large_slices_is_verified_as_well(model, monkeypatch):
    """The stored answer is small; a fault in what only large slices run must not pass."""
    if (reason := BACKENDS["openvino"].why_not()) is not None:
        pytest.skip(reason)
    from kspacesr_rt.runtime import openvino_cpu

    real = openvino_cpu.transforms_in_phases
    rewritten = []

    def faulty(proto, *, any_size):
        made = real(proto, any_size=any_size)
        rewritten.append(made is not proto)
        return spoil_phases(made)

    options = BackendOptions(threads=1)
    assert verify_model(model, "openvino", options).passed
    monkeypatch.setattr(openvino_cpu, "transforms_in_phases", faulty)
    assert not verify_model(model, "openvino", options).passed
    assert rewritten == [False, True]


def test_the_bar_is_reached_at_its_height():
    """What is required is enough; a result without any difference always is."""
    for psnr in (100.0, float("inf")):
        result = Verification(
            model="m", backend="b", psnr_between_db=psnr, max_error=0.0, required_db=100.0
        )
        assert result.passed
        require_verified(result)


@pytest.mark.parametrize("psnr", [99.999, float("nan"), float("-inf")])
def test_the_bar_is_not_passed_by_a_nan(psnr):
    """A comparison with NaN must come out as 'no'."""
    result = Verification(
        model="m", backend="b", psnr_between_db=psnr, max_error=0.0, required_db=100.0
    )
    assert not result.passed
    with pytest.raises(ParityError):
        require_verified(result)


def test_a_file_without_a_known_answer_is_refused(model):
    """Nothing to compare is not a pass."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    kept = {item.key: item.value for item in proto.metadata_props if item.key == METADATA_KEY}
    del proto.metadata_props[:]
    helper.set_model_props(proto, kept)
    with pytest.raises(ModelFileError, match=r"^m\.onnx carries no known answer to verify against"):
        verify_model(parse_model(proto.SerializeToString(), name="m.onnx"), "ort-cpu")


@pytest.mark.parametrize("shapes", [((40, 33), (80, 65)), ((3, 3), (6, 6)), ((40,), (80, 66))])
def test_a_known_answer_that_does_not_fit_the_model_is_refused(model, shapes):
    """The text is outside the digest: shapes that contradict the model are damage, not a bug."""
    from kspacesr_rt.model.file import KnownAnswer

    answer = KnownAnswer(lr=np.ones(shapes[0], np.float32), sr=np.ones(shapes[1], np.float32))
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    kept = {item.key: item.value for item in proto.metadata_props}
    del proto.metadata_props[:]
    helper.set_model_props(proto, kept | {KNOWN_ANSWER_KEY: answer.to_json()})
    with pytest.raises(InputError):
        verify_model(parse_model(proto.SerializeToString(), name="m.onnx"), "ort-cpu")


def test_a_known_answer_of_zeros_does_not_divide_by_zero(model):
    """An all-zero answer proves nothing; it must be refused in words, not pass or crash."""
    from kspacesr_rt.model.file import KnownAnswer

    answer = KnownAnswer(lr=np.zeros((40, 33), np.float32), sr=np.zeros((80, 66), np.float32))
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    kept = {item.key: item.value for item in proto.metadata_props}
    del proto.metadata_props[:]
    helper.set_model_props(proto, kept | {KNOWN_ANSWER_KEY: answer.to_json()})
    with pytest.raises(InputError):
        verify_model(parse_model(proto.SerializeToString(), name="m.onnx"), "ort-cpu")


def test_a_missing_runtime_is_not_a_failed_model(monkeypatch, model):
    """Exit 3, not 4: the machine lacks something, the model is not to blame."""
    from kspacesr_rt.runtime import protocol

    monkeypatch.setattr(protocol, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError):
        verify_model(model, "ort-cpu")


def test_the_command_prints_the_numbers_and_exits_0(model_file):
    """What an installer logs on the day the machine was set up."""
    result = invoke("verify", model_file, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("tiny-dc-residual-x2 on ort-cpu: 1")
    assert "dB against the stored answer (100 required), largest error " in result.stdout


def test_the_command_exits_4_with_the_numbers_when_it_fails(model_file, distort):
    """The numbers are printed all the same: they tell TF32 from a wrong FFT."""
    distort(lambda result: result * np.float32(1.01))
    result = invoke("verify", model_file)
    assert result.exit_code == 4
    assert "dB against the stored answer (100 required)" in result.stdout
    assert result.stderr.startswith("error: model 'tiny-dc-residual-x2' on backend 'ort-cpu' gives")


@pytest.mark.parametrize("bad", [None, np.nan])
def test_the_json_line_is_strict_json(model_file, distort, bad):
    """A monitoring script parses it, also when the backend gave NaN."""
    if bad is not None:
        distort(lambda result: np.full_like(result, bad))
    result = invoke("verify", model_file, "--json")
    assert result.exit_code == (0 if bad is None else 4)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(result.stdout, parse_constant=refuse)
    assert document["passed"] == (bad is None)
    assert document["required_db"] == 100.0
