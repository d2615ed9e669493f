"""The models in the wheel: they compute what PyTorch computes, and are better than zero-fill."""

import json

import numpy as np
import pytest
import torch

from kspacesr_rt.dicom import read_slice, scan_folder
from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.kspace import centre_crop, degrade, fft2c, from_channels
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.quality.metrics import evaluate, psnr_between
from kspacesr_rt.runtime.backends import BackendOptions, open_backend
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.train.generator_from_model import generator_from_model

MODELS = sorted(shipped_models())
ONE_THREAD = BackendOptions(threads=1)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return load_model(shipped_models()[request.param])


@pytest.fixture(scope="module")
def sample():
    slices = scan_folder(sample_folder()).series[0].slices
    values = np.stack([read_slice(slices[number]).values for number in (6, 12)])
    return (values / values.max()).astype(np.float32)


def run(model, lr):
    with open_backend("ort-cpu", bind(model, lr.shape[-2:]), ONE_THREAD) as backend:
        return backend.run(lr[:, None])[:, 0]


def test_there_is_one_for_each_upscale():
    """`infer` without --model needs one for 2 and one for 4, and no more megabytes than a few."""
    assert {"x2-fast", "x4-fast"} <= set(MODELS)
    assert all(path.stat().st_size < 6e6 for path in shipped_models().values())


@pytest.mark.parametrize("matrix", [(128, 128), (67, 90), (64, 255), (101, 64), (1024, 65)])
def test_onnx_runtime_agrees_with_pytorch_to_100_db(model, matrix):
    """The tier `exact`, on matrices the files were not stored for, bound without torch."""
    upscale = model.spec.upscale
    hr = brain_phantom((matrix[0] * upscale, matrix[1] * upscale))
    lr = degrade(hr, upscale).astype(np.float32)[None] * 1234.0
    with torch.inference_mode():
        reference = generator_from_model(model)(torch.from_numpy(lr[:, None]))[:, 0].numpy()
    assert psnr_between(run(model, lr), reference, float(reference.max())) >= 100.0


def test_real_slices_come_out_better_than_zero_fill(model, sample):
    """From a scanner and a contrast the models never saw."""
    upscale = model.spec.upscale
    lr = degrade(sample, upscale).astype(np.float32)
    sr = np.maximum(run(model, lr), 0.0)
    ours = evaluate(sr, sample, "slice-range1")
    baseline = evaluate(np.maximum(zero_fill(lr, upscale), 0.0), sample, "slice-range1")
    assert ours.psnr_db > baseline.psnr_db + 0.5
    assert ours.ssim > baseline.ssim + 0.003
    assert ours.mae < baseline.mae


def test_measured_samples_are_preserved_in_the_complex_output(model, sample):
    """Hard data consistency: 1e-5 of the largest sample, Nyquist lines included."""
    upscale = model.spec.upscale
    lr = degrade(sample[:1], upscale).astype(np.float32)
    generator = generator_from_model(model)
    kept = {}
    hooks = [
        generator.shuffle.register_forward_hook(lambda _, __, out: kept.update(predicted=out)),
        generator.predicted_fft.register_forward_hook(lambda _, __, out: kept.update(band=out)),
        generator.fft.register_forward_hook(lambda _, __, out: kept.update(measured=out)),
    ]
    with torch.inference_mode():
        generator(torch.from_numpy(lr[:, None]))
        for hook in hooks:  # they hold what the last cascade did
            hook.remove()
        generator.correct.channels = 2
        correction = generator.correct(kept["measured"] - kept["band"])
    predicted = kept["predicted"].numpy()[0, 0].astype(np.float64)
    output = predicted + from_channels(correction.numpy().astype(np.float64))[0]
    measured = fft2c(lr[0].astype(np.float64)) * upscale / lr.max()
    error = np.abs(centre_crop(fft2c(output), measured.shape) - measured).max()
    assert error <= 1e-5 * np.abs(measured).max()


def test_results_scale_with_their_input(model, sample):
    """Scanner units are arbitrary: 1000 times the intensity is 1000 times the result."""
    lr = degrade(sample[:1], model.spec.upscale).astype(np.float32)
    one, thousand = run(model, lr), run(model, lr * np.float32(1000.0))
    assert psnr_between(thousand / 1000.0, one, float(one.max())) >= 100.0


def test_air_stays_air(model):
    """An empty slice gives an empty result, not amplified rounding and not NaN."""
    result = run(model, np.zeros((1, 48, 64), np.float32))
    assert not result.any()


def test_the_card_says_what_the_file_measures(model):
    """Licence, attribution, data and the quality of the file itself stand in its specification."""
    spec = model.spec
    assert spec.provenance.licence
    assert "Lesjak" in spec.provenance.attribution
    assert spec.provenance.training
    card = shipped_models()[spec.name].with_suffix(".md").read_text()
    assert spec.provenance.weights_sha256[:12] in card
    for data, values in spec.quality.items():
        assert data in card
        assert f"{values['psnr_db']:.2f}" in card
    assert json.loads(spec.to_json())["adversarial"] is False


def test_a_folded_network_cannot_be_rebuilt_silently(model):
    """A wrong reference would prove nothing, so an incomplete one is refused."""
    weight = next(
        one for one in model.proto.graph.initializer if one.name == "cascades.0.head.weight"
    )
    weight.name = "elsewhere"
    try:
        with pytest.raises(CheckpointError, match="cannot be rebuilt"):
            generator_from_model(model)
    finally:
        weight.name = "cascades.0.head.weight"
