"""Weights from SR_kspace's own notebooks: their transforms, amplitudes and spectra, to the digit.

`repository` below is written from the repository's own lines, with NumPy and its network alone. Two
things are left out of it on purpose: its shift over every axis and its min-max scaling over the
batch, of which a batch of one slice and the comparison up to a factor show nothing; both are
among the traps of `test_seed_traps`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from kspacesr_rt.kspace.dft_matrices import centred_dft
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.binding import bind
from kspacesr_rt.runtime.backends import BackendOptions, open_backend
from kspacesr_rt.train.generators import SeedNetwork, build_generator

LOWERINGS = ("gemm", "conv", "dft", "dynamic")
SIZE = 24
"""LR samples per axis of the stored spectra."""
MATRICES = ((24, 24), (21, 21), (25, 30), (32, 24))
SEED = {"fft_convention": "seed", "normaliser": "kspace-peak", "data_consistency": "additive"}


def lr_slice(matrix: tuple[int, int], seed: int = 5) -> np.ndarray:
    """Draw a slice in 12-bit units."""
    return (3100 * brain_phantom(matrix, seed)).astype(np.float32)


def mean_kspace(n: int) -> np.ndarray:
    """Average spectra as ``h_calc.py`` does: of slices whose k-space was divided by its peak."""
    total = np.zeros((n, n), np.float32)
    for seed in range(4):
        kspace = np.fft.fftshift(np.fft.fft2(brain_phantom((n, n), seed)))
        parts = np.stack((np.real(kspace), np.imag(kspace)), axis=0).astype(np.float32)
        parts /= parts.max()
        total += np.sqrt(parts[0] ** 2 + parts[1] ** 2)
    return total / 4 + np.float32(1e-7)


def at(spectrum: np.ndarray, matrix: tuple[int, int]) -> np.ndarray:
    """Bring a spectrum to another matrix: equal share of Nyquist, linear in the logarithm."""
    logs = np.log(spectrum.astype(np.float64))
    for axis, n in enumerate(matrix):
        old = spectrum.shape[axis]
        wanted = (np.arange(n) - n // 2) / n
        stored = (np.arange(old) - old // 2) / old
        logs = np.apply_along_axis(
            lambda line, w=wanted, s=stored: np.interp(w, s, line), axis, logs
        )
    return np.exp(logs)


def repository(
    image: np.ndarray,
    network: SeedNetwork,
    h_lr: np.ndarray,
    h_hr: np.ndarray,
    upscale: int,
    *,
    skip: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the network's input and the magnitude image, as the repository computes them."""
    kspace = np.fft.fftshift(np.fft.fft2(image.astype(np.float64)))
    lr_kspace = np.stack((np.real(kspace), np.imag(kspace)), axis=0)
    lr_kspace /= lr_kspace.max()
    given = lr_kspace / h_lr
    given /= abs(given).max()
    with torch.inference_mode():
        out = network(torch.from_numpy(given.astype(np.float32))[None])[0].double().numpy() * h_hr
    if skip:
        (rows, columns), (height, width) = image.shape, out.shape[-2:]
        top, left = height // 2 - rows // 2, width // 2 - columns // 2
        out[..., top : top + rows, left : left + columns] += lr_kspace
    centred = np.fft.ifftshift(out[0] + 1j * out[1])
    return given, np.abs(np.fft.ifft2(centred))


@pytest.fixture(scope="module", params=[2, 4])
def seed_generator(request, make_generator):
    """Return a generator in the seed's convention with spectra in its units, and its spec."""
    upscale = request.param
    generator, spec = make_generator("seed-kspace", upscale, matrix=(SIZE, SIZE), width=6, **SEED)
    generator.h_lr.spectrum.copy_(torch.from_numpy(mean_kspace(SIZE)))
    generator.h_hr.spectrum.copy_(torch.from_numpy(mean_kspace(SIZE * upscale)))
    return generator, spec


def expected(generator, spec, image: np.ndarray, **options: bool) -> np.ndarray:
    """Return the repository's image in the source's units.

    Measured k-space alone, divided by its peak, is the zero-filled image over the sum of the LR
    image, and over as many samples as the finer grid has more.
    """
    s, matrix = spec.upscale, image.shape
    fine = (matrix[0] * s, matrix[1] * s)
    h_lr, h_hr = (
        at(layer.spectrum.numpy(), size)
        for layer, size in ((generator.h_lr, matrix), (generator.h_hr, fine))
    )
    _, magnitude = repository(image, generator.network, h_lr, h_hr, s, **options)
    kspace = np.fft.fft2(image.astype(np.float64))
    return magnitude * max(kspace.real.max(), kspace.imag.max()) * s**2


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_generator_computes_the_repositorys_formula(seed_generator, matrix):
    """Image in, image out, for the matrix of the spectra and for any other."""
    generator, spec = seed_generator
    image = lr_slice(matrix)
    with torch.inference_mode():
        result = generator(torch.from_numpy(image)[None, None])[0, 0].numpy()
    wanted = expected(generator, spec, image)
    assert relative(result, wanted) < 1e-5
    assert relative(wanted, np.abs(zero_fill(image, spec.upscale))) > 0.05  # the network matters


@pytest.mark.parametrize("skip", [True, False])
def test_both_of_its_skip_connections(make_generator, skip):
    """``--skip_connection 0`` is data consistency ``none``."""
    consistency = "additive" if skip else "none"
    generator, spec = make_generator(
        "seed-kspace", 2, matrix=(SIZE, SIZE), **{**SEED, "data_consistency": consistency}
    )
    image = lr_slice((SIZE, SIZE))
    with torch.inference_mode():
        result = generator(torch.from_numpy(image)[None, None])[0, 0].numpy()
    assert relative(result, expected(generator, spec, image, skip=skip)) < 1e-5


def test_the_network_is_given_what_it_was_trained_on(seed_generator):
    """In our units its input would be tens of times too large, with every other sign turned."""
    generator, spec = seed_generator
    image = lr_slice((SIZE, SIZE))
    seen = []
    hook = generator.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        generator(torch.from_numpy(image)[None, None])
    hook.remove()
    h_lr, h_hr = (layer.spectrum.numpy() for layer in (generator.h_lr, generator.h_hr))
    given, _ = repository(image, generator.network, h_lr, h_hr, spec.upscale)
    np.testing.assert_allclose(seen[0][0].numpy(), given, atol=2e-6)
    assert np.abs(given).max() == 1.0

    ours = build_generator(
        dataclasses.replace(spec, fft_convention="centred", normaliser="slice-max")
    ).eval()
    ours.load_state_dict(generator.state_dict())
    ours.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        ours(torch.from_numpy(image)[None, None])
    wrong = seen[1][0].numpy()
    assert np.abs(wrong).max() > 5.0
    signs = np.sign(wrong) * np.sign(seen[0][0].numpy())
    assert 0.4 < (signs < 0).mean() < 0.6


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_every_lowering_computes_the_repositorys_formula(
    seed_generator, make_model, lowering, matrix
):
    """The exported graph against the formula: our PyTorch may share a mistake with it."""
    generator, spec = seed_generator
    model = make_model(generator, spec, lowering)
    image = lr_slice(matrix)
    with open_backend("ort-cpu", bind(model, matrix)) as backend:
        result = backend.run(image[None, None])[0, 0]
    assert relative(result, expected(generator, spec, image)) < 1e-4


@pytest.mark.parametrize("matrix", [(24, 24), (21, 30)])
@pytest.mark.parametrize("as_large", [False, True])
def test_openvino_computes_the_repositorys_formula(seed_generator, make_model, matrix, as_large):
    """With and without its rewriting into phases, which must leave these layers alone."""
    pytest.importorskip("openvino")
    generator, spec = seed_generator
    image = lr_slice(matrix)
    bound = bind(make_model(generator, spec), matrix)
    with open_backend("openvino", bound, BackendOptions(as_large=as_large)) as backend:
        result = backend.run(image[None, None])[0, 0]
    assert relative(result, expected(generator, spec, image)) < 1e-4


def test_a_batch_is_as_many_slices(seed_generator):
    """The repository divides by the maxima of the batch; here each slice has its own."""
    generator, spec = seed_generator
    images = np.stack([lr_slice((SIZE, SIZE)), lr_slice((SIZE, SIZE), 2) / 50])
    with torch.inference_mode():
        together = generator(torch.from_numpy(images)[:, None])[:, 0].numpy()
    for image, result in zip(images, together, strict=True):
        assert relative(result, expected(generator, spec, image)) < 1e-5


def test_air_stays_air(seed_generator):
    """The first slices of a volume may be all zeros: no division may make NaN of them."""
    generator, _ = seed_generator
    with torch.inference_mode():
        result = generator(torch.zeros(1, 1, SIZE, SIZE))
    assert float(result.abs().max()) < 1e-15


@pytest.mark.parametrize("n_from", [8, 9])
def test_corner_matrices_are_numpys_shifted_transform(n_from):
    """Cropped and filled ones too, against `numpy.fft`."""
    eye, n_to = np.eye(n_from), 5
    whole = np.fft.fftshift(np.fft.fft(eye, axis=0, norm="ortho"), axes=0)
    start = n_from // 2 - n_to // 2
    cropped = centred_dft(n_from, n_to, inverse=False, corner=True)
    np.testing.assert_allclose(cropped, whole[start : start + n_to], atol=1e-12)
    finer = 2 * n_from
    filled = np.zeros((finer, n_from))
    start = finer // 2 - n_from // 2
    filled[start : start + n_from] = eye
    back = np.fft.ifft(np.fft.ifftshift(filled, axes=0), axis=0, norm="ortho")
    np.testing.assert_allclose(
        centred_dft(n_from, finer, inverse=True, corner=True), back, atol=1e-12
    )


def test_graphs_of_the_other_convention_have_no_corner_layers(make_generator, make_model):
    """Files that were exported before keep their operators, and so their digests."""
    ours = make_model(*make_generator("seed-kspace", 2))
    assert {node.op_type for node in ours.proto.graph.node if node.domain} == {
        *("FFT2c", "IFFT2c", "MeanSpectrum", "CentreCrop", "CentreFill")
    }
    assert isinstance(ours.proto, onnx.ModelProto)
