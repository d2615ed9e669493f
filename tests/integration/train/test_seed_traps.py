"""The traps of the first implementation, one by one: shown to bite, and shown to be avoided.

Each trap is written out here the wrong way. A test that only checked the right way would pass just
as well if the trap were none.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from kspacesr_rt import kspace
from kspacesr_rt.kspace.dft_matrices import centred_dft
from kspacesr_rt.kspace.mean_spectrum import resample_spectrum
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import bicubic, zero_fill
from kspacesr_rt.model.binding import bind
from kspacesr_rt.quality.metrics import CONVENTIONS, Quality, evaluate
from kspacesr_rt.train import layers
from kspacesr_rt.train.degradation import DEGRADATIONS
from kspacesr_rt.train.generators import build_generator
from kspacesr_rt.train.pairs import Augmentation, PairSampler, TrainingSeries

ARCHITECTURES = ("seed-kspace", "seed-image", "dc-residual")
AXES = (-2, -1)
FP32 = 1e-5
"""Relative rounding of a network and two transforms in fp32."""
LARGEST_FP16 = 65504.0


def head(n: int, seed: int = 0) -> np.ndarray:
    """Draw a head-like slice, maximum 1, float64."""
    return brain_phantom((n, n), seed).astype(np.float64)


def heads(n: int, *gains: float) -> np.ndarray:
    """Stack different slices of different brightness."""
    return np.stack([gain * head(n, seed) for seed, gain in enumerate(gains)])


def run(generator: nn.Module, images: np.ndarray) -> np.ndarray:
    """Super-resolve slices ``(n, y, x)`` with PyTorch; float64 ``(n, s*y, s*x)``."""
    batch = torch.from_numpy(images.astype(np.float32))[:, None]
    with torch.inference_mode():
        return generator(batch)[:, 0].double().numpy()


def plain_kspace(image: np.ndarray) -> np.ndarray:
    """Centred, orthonormal k-space with NumPy alone."""
    shifted = np.fft.ifftshift(image, axes=AXES)
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=AXES)


def plain_image(spectrum: np.ndarray) -> np.ndarray:
    """Invert `plain_kspace`."""
    shifted = np.fft.ifftshift(spectrum, axes=AXES)
    return np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=AXES)


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """In dB on data range 1."""
    return float(-10 * np.log10(np.mean(np.abs(image - truth) ** 2)))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# --- 1: fftshift over every axis ------------------------------------------------------------------


def test_trap_1_fftshift_without_axes_rolls_the_batch():
    """Slices would be trained and judged against other slices' targets, with no error anywhere."""
    batch = heads(16, 1.0, 0.7, 0.5, 0.2)
    trapped = np.fft.fftshift(np.fft.fft2(batch, norm="ortho"))  # all three axes
    rolled = np.abs(plain_kspace(batch))[[2, 3, 0, 1]]
    np.testing.assert_allclose(np.abs(trapped), rolled, atol=1e-12)
    assert relative(np.abs(trapped), np.abs(plain_kspace(batch))) > 0.3
    # For a single slice the trap does not show, which is how it stays unnoticed.
    alone = np.fft.fftshift(np.fft.fft2(batch[:1], norm="ortho"))
    np.testing.assert_allclose(np.abs(alone), np.abs(plain_kspace(batch[:1])), atol=1e-12)

    np.testing.assert_allclose(kspace.fft2c(batch), plain_kspace(batch), atol=1e-12)
    np.testing.assert_allclose(kspace.ifft2c(batch), plain_image(batch), atol=1e-12)
    for layer, expected in (
        (layers.FFT2c(), plain_kspace(batch)),
        (layers.IFFT2c(), plain_image(batch)),
    ):
        result = layer(torch.from_numpy(batch)[:, None]).numpy()
        np.testing.assert_allclose(kspace.from_channels(result), expected, atol=1e-12)


@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trap_1_a_batch_in_another_order_gives_results_in_that_order(
    make_generator, architecture, upscale
):
    """The whole generator, not its transforms alone: result i belongs to slice i."""
    generator, _ = make_generator(architecture, upscale)
    batch, order = heads(16, 1.0, 0.7, 0.5), [2, 0, 1]
    results = run(generator, batch)
    np.testing.assert_allclose(run(generator, batch[order]), results[order], rtol=0, atol=FP32)
    assert relative(results[order], results) > 0.1  # the slices are different enough to tell


# --- 2: min-max over the batch --------------------------------------------------------------------


def test_trap_2_min_max_over_the_batch_loses_intensity_and_independence():
    """One bright neighbour darkens a slice, and no later step can know by how much."""

    def trapped(batch: np.ndarray) -> np.ndarray:
        return (batch - batch.min()) / (batch.max() - batch.min())

    slice_, mate = 0.05 + head(24), 10 * head(24, 1)
    alone, beside = trapped(slice_[None])[0], trapped(np.stack([slice_, mate]))[0]
    assert relative(beside, alone) > 0.8
    assert relative(trapped(5 * slice_[None])[0], alone) < 1e-12  # 5 times brighter: lost

    for method in (zero_fill, bicubic):
        expected = method(slice_[None], 2)[0]
        assert relative(method(np.stack([slice_, mate]), 2)[0], expected) < FP32
        assert relative(method(5 * slice_[None], 2)[0], 5 * expected) < FP32


class BatchMaximum(nn.Module):
    """The trap in a generator: one number for every slice of the batch."""

    def forward(self, image: Tensor) -> Tensor:
        """Take the largest value of all slices together."""
        return image.abs().amax().expand(len(image), 1, 1, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trap_2_a_generators_result_does_not_depend_on_batch_mates(make_generator, architecture):
    """A patient's slice must look the same whatever is processed together with it."""
    generator, _ = make_generator(architecture, 2, bias=True)
    batch = heads(16, 1.0, 50.0, 0.01)

    def change_beside_mates() -> float:
        together = run(generator, batch)
        alone = [run(generator, one[None])[0] for one in batch]
        return max(relative(ours, own) for ours, own in zip(together, alone, strict=True))

    assert change_beside_mates() < FP32
    brighter = relative(run(generator, 300 * batch), 300 * run(generator, batch))
    assert brighter < FP32  # absolute intensity goes through
    generator.maximum = BatchMaximum()
    assert change_beside_mates() > 0.05


# --- 3: two FFT conventions -----------------------------------------------------------------------


def uncentred(image: np.ndarray) -> np.ndarray:
    """DC in the middle, but the image's origin in its corner: the other common convention."""
    return np.fft.fftshift(np.fft.fft2(image, norm="ortho"), axes=AXES)


def test_trap_3_conventions_differ_by_a_checkerboard_that_magnitude_hides():
    """Both look alike on a screen; their real parts have opposite signs on half of the samples."""
    image = head(24)
    right, trapped = plain_kspace(image), uncentred(image)
    checkerboard = (-1.0) ** np.add.outer(np.arange(24) - 12, np.arange(24) - 12)
    np.testing.assert_allclose(trapped, right * checkerboard, atol=1e-12)
    np.testing.assert_allclose(np.abs(trapped), np.abs(right), atol=1e-12)
    assert relative(trapped, right) > 0.5
    # Mixed: forward one way, back the other, the head comes out in four pieces.
    assert psnr(plain_image(trapped).real, image) < 15.0


@pytest.mark.parametrize("matrix", [(24, 24), (25, 24), (17, 31)])
def test_trap_3_every_implementation_here_has_one_convention(matrix):
    """NumPy, PyTorch and the matrices of exported models: one sign on every sample."""
    image = brain_phantom(matrix).astype(np.float64)
    right = plain_kspace(image)
    assert relative(uncentred(image), right) > 0.5
    in_torch = layers.FFT2c()(torch.from_numpy(image)[None, None]).numpy()[0]
    rows, columns = (centred_dft(n, n, inverse=False) for n in matrix)
    for found in (kspace.fft2c(image), kspace.from_channels(in_torch), rows @ image @ columns.T):
        np.testing.assert_allclose(found, right, atol=1e-12)
    back = layers.IFFT2c()(torch.from_numpy(kspace.to_channels(right))[None]).numpy()[0]
    rows, columns = (centred_dft(n, n, inverse=True) for n in matrix)
    for found in (kspace.ifft2c(right), kspace.from_channels(back), rows @ right @ columns.T):
        np.testing.assert_allclose(found, image, atol=1e-12)


def test_trap_3_the_other_convention_is_fatal_to_a_network_on_kspace(make_generator):
    """Same magnitudes in, something else out: weights are tied to the convention's signs."""
    generator, _ = make_generator("seed-kspace", 2, data_consistency="none")
    image = head(24)

    def predicted(spectrum: np.ndarray) -> np.ndarray:
        channels = kspace.to_channels(spectrum)[None].astype(np.float32)
        with torch.inference_mode():
            return generator.network(generator.h_lr(torch.from_numpy(channels))).numpy()

    right = predicted(kspace.fft2c(image))
    magnitudes = np.hypot(right[:, 0], right[:, 1])
    trapped = predicted(uncentred(image))
    assert relative(np.hypot(trapped[:, 0], trapped[:, 1]), magnitudes) > 0.1
    in_torch = layers.FFT2c()(torch.from_numpy(image)[None, None]).numpy()[0]
    assert relative(predicted(kspace.from_channels(in_torch)), right) < FP32


# --- 4: LR by image resize ------------------------------------------------------------------------


def resized(image: np.ndarray, upscale: int) -> np.ndarray:
    """Shrink as an image library does; the trap that can be asked for by name."""
    return DEGRADATIONS["seed-resize"](image[None], upscale)[0].astype(np.float64)


def shift_along_x(image: np.ndarray, hr: np.ndarray) -> float:
    """Measure how far `image` reads to the right of where `hr` does, in HR samples.

    The phase of the lowest frequency over that of `hr`; even matrices, origin at n // 2.
    """

    def lowest(values: np.ndarray) -> complex:
        n = values.shape[1]
        position = (np.arange(n) - n // 2) / n
        return complex(values.mean(axis=0) @ np.exp(-2j * np.pi * position))

    return float(np.angle(lowest(image) / lowest(hr)) / (2 * np.pi) * hr.shape[1])


def blob(n: int) -> np.ndarray:
    """Draw a smooth off-centre spot: nothing that any shrinking could alias."""
    y, x = np.meshgrid(*((np.arange(n) - n // 2) / n,) * 2, indexing="ij")
    return np.exp(-((y - 0.05) ** 2 + (x + 0.11) ** 2) / (2 * 0.07**2))


@pytest.mark.parametrize(("upscale", "off"), [(2, 0.5), (4, 1.5)])
def test_trap_4_a_resized_image_is_not_on_the_grid_of_the_scan(upscale, off):
    """Half an HR sample (x2), one and a half (x4): a network would learn to shift."""
    hr = blob(64)
    assert shift_along_x(resized(hr, upscale), hr) == pytest.approx(off, abs=1e-3)
    assert shift_along_x(kspace.degrade(hr, upscale), hr) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(("upscale", "least", "most"), [(2, 1.5, 2.6), (4, 2.5, 4.0)])
def test_trap_4_resized_kspace_in_the_hr_centre_costs_decibels(upscale, least, most):
    """About 2 dB (x2) and 3 dB (x4) before any network has done anything.

    The measured centre is what the skip connection puts back: zero-fill shows it alone.
    """
    hr = head(320)
    n, start = 320 // upscale, 160 - 160 // upscale

    def skip_alone(lr: np.ndarray) -> float:
        spectrum = np.zeros((320, 320), dtype=complex)
        spectrum[start : start + n, start : start + n] = plain_kspace(lr) * upscale
        return psnr(plain_image(spectrum).real, hr)

    loss = skip_alone(kspace.degrade(hr, upscale)) - skip_alone(resized(hr, upscale))
    assert least < loss < most
    # And with everything else perfect: HR k-space whose centre is replaced is not perfect any more.
    spectrum = plain_kspace(hr)
    centre = slice(start, start + n)
    for lr, perfect in (
        (kspace.degrade(hr, upscale, magnitude=False), True),
        (resized(hr, upscale), False),
    ):
        mixed = spectrum.copy()
        mixed[centre, centre] = plain_kspace(lr) * upscale
        assert (psnr(plain_image(mixed).real, hr) > 200.0) == perfect


@pytest.mark.parametrize(("upscale", "off"), [(2, 0.5), (4, 1.5)])
def test_trap_4_bicubic_is_sampled_on_the_grid_of_the_scan(upscale, off):
    """A baseline on another grid is beaten by its shift, not by the model."""
    spot, hr = blob(64), head(160)

    def trapped(lr: np.ndarray) -> np.ndarray:
        """Resize with FOV edges aligned, as every image library does."""
        image = torch.from_numpy(lr)[None, None]
        resized = nn.functional.interpolate(
            image, scale_factor=upscale, mode="bicubic", align_corners=False
        )
        return resized[0, 0].numpy()

    lr = kspace.degrade(spot, upscale)
    # Output sample j reads j / s - (s - 1) / (2 s) LR samples: to the left of the grid.
    assert shift_along_x(trapped(lr), spot) == pytest.approx(-off, abs=0.05)
    assert shift_along_x(bicubic(lr, upscale), spot) == pytest.approx(0.0, abs=0.02)
    lr = kspace.degrade(hr, upscale)
    assert psnr(bicubic(lr, upscale), hr) > psnr(trapped(lr), hr) + 1.0


# --- 5: the additive skip -------------------------------------------------------------------------


class Oracle(nn.Module):
    """Stands for a network: returns k-space it was given, whatever it is asked."""

    def __init__(self, spectrum: np.ndarray) -> None:
        super().__init__()
        channels = kspace.to_channels(spectrum).astype(np.float32)
        self.answer = torch.from_numpy(channels)[None]

    def forward(self, inputs: Tensor) -> Tensor:
        """Answer."""
        return self.answer


def test_trap_5_an_additive_skip_spoils_even_a_perfect_prediction(make_spec):
    """Measured samples are counted twice; put in place of the prediction, they are right."""
    hr = head(46)
    # 23 is odd: the complex crop of a real image is real, and hard consistency can be exact.
    lr = plain_image(plain_kspace(hr)[12:35, 12:35]).real / 2
    results = {}
    for consistency in ("none", "additive", "hard"):
        spec = make_spec("seed-kspace", 2, data_consistency=consistency, matrix=(23, 23))
        generator = build_generator(spec).eval()  # spectra all 1
        generator.network = Oracle(plain_kspace(hr) / np.abs(lr).max())
        results[consistency] = psnr(run(generator, lr[None])[0], hr)
    assert results["none"] > 80.0
    assert results["additive"] < 20.0
    assert results["hard"] > 80.0


@pytest.mark.parametrize("upscale", [2, 4])
def test_trap_5_only_hard_consistency_keeps_what_was_measured(make_generator, upscale):
    """The measured centre of the result against the input's k-space, for one and the same CNN."""
    lr = heads(16, 1.0, 0.3)
    measured = plain_kspace(lr)
    start = 16 * upscale // 2 - 8
    centre = slice(start, start + 16)
    errors = {}
    for consistency in ("additive", "hard"):
        generator, _ = make_generator("seed-kspace", upscale, data_consistency=consistency)
        generator.magnitude = nn.Identity()  # the complex image: nothing is folded yet
        with torch.inference_mode():
            output = generator(torch.from_numpy(lr.astype(np.float32))[:, None]).double().numpy()
        kept = plain_kspace(output[:, 0] + 1j * output[:, 1])[:, centre, centre] / upscale
        errors[consistency] = relative(kept, measured)
    assert errors["hard"] < FP32
    assert errors["additive"] > 0.01


def test_trap_5_a_shipped_kind_of_model_passes_its_own_check(make_generator):
    """The residual that each DICOM run checks sees the trap and not the remedy."""
    lr = head(16)
    hard, _ = make_generator("dc-residual", 2)
    additive, _ = make_generator("seed-kspace", 2, data_consistency="additive", output="real")
    assert kspace.measured_residual(run(hard, lr[None])[0], lr) < FP32
    assert kspace.measured_residual(run(additive, lr[None])[0], lr) > 1e-3


# --- 6: the mean spectra, and the range of k-space ------------------------------------------------


def mean_spectrum(n: int, upscale: int, *, of_lr: bool) -> np.ndarray:
    """Average spectra of other heads than the one that is tested, in the generators' units."""
    total = 0.0
    for seed in range(1, 5):
        hr = head(n * upscale, seed)
        lr = kspace.degrade(hr, upscale)
        image = lr * upscale if of_lr else hr
        total = total + np.abs(plain_kspace(image)) / lr.max() / 4
    return np.asarray(total)


def spectra_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Read the spectra that a model file carries, by layer."""
    return {
        node.name: numpy_helper.to_array(attribute.t)
        for node in proto.graph.node
        if node.op_type == "MeanSpectrum"
        for attribute in node.attribute
        if attribute.name == "spectrum"
    }


@pytest.mark.parametrize("lowering", ["gemm", "dft"])
def test_trap_6_spectra_travel_inside_the_exported_model(make_generator, make_model, lowering):
    """In the seed they were separate arrays: weights without them are useless."""
    generator, spec = make_generator("seed-kspace", 2)
    model = make_model(generator, spec, lowering)
    stored = spectra_of(model.proto)
    assert set(stored) == {"h_lr", "h_hr"}
    for name, layer in (("h_lr", generator.h_lr), ("h_hr", generator.h_hr)):
        np.testing.assert_array_equal(stored[name], layer.spectrum.numpy())
        assert np.ptp(np.log(stored[name])) > 1.0  # not the neutral ones
    # What the graph computes with, on a patient's matrix: made from the stored ones alone.
    bound = bind(model, (21, 30)).proto
    constants = {item.name: numpy_helper.to_array(item) for item in bound.graph.initializer}
    factors = {
        node.name: constants[node.input[1]]
        for node in bound.graph.node
        if node.op_type == "MeanSpectrum"
    }
    lr, hr = (
        resample_spectrum(stored["h_lr"], (21, 30)),
        resample_spectrum(stored["h_hr"], (42, 60)),
    )
    np.testing.assert_allclose(factors["h_lr"][0, 0], 1 / lr, rtol=1e-6)
    np.testing.assert_allclose(factors["h_hr"][0, 0], hr, rtol=1e-6)
    np.testing.assert_array_equal(spectra_of(bound)["h_lr"], stored["h_lr"])


def test_trap_6_other_spectra_are_another_model(make_generator, make_model):
    """Exchanged spectra change every image, so they are under the digest of the weights."""
    generator, spec = make_generator("seed-kspace", 2)
    image = head(24)[None]
    before, digest = run(generator, image), make_model(generator, spec).spec.provenance
    generator.h_hr.spectrum.fill_(1.0)  # weights without their spectrum
    after = make_model(generator, spec).spec.provenance
    assert after.weights_sha256 != digest.weights_sha256
    assert relative(run(generator, image), before) > 0.1


def test_trap_6_the_range_of_kspace_is_as_large_as_stated():
    """1e4 for an image in [0, 1], 5e7 to 8e7 in 12-bit units: half precision ends at 65,504."""
    spectrum = np.abs(np.fft.fft2(head(320)))  # no norm: the trap
    assert 5e3 < spectrum.max() < 3e4
    assert spectrum.max() / np.median(spectrum) > 500
    in_12_bits = 4095 * spectrum
    assert 2e7 < in_12_bits.max() < 1e8
    with np.errstate(over="ignore"):
        assert np.isinf(in_12_bits.astype(np.float16)).any()


def test_trap_6_the_network_sees_a_small_range_whatever_the_unit(make_spec):
    """Divided by the slice's maximum and by h_LR, k-space lies around 1."""
    generator = build_generator(make_spec("seed-kspace", 2, matrix=(80, 80))).eval()
    spectrum = mean_spectrum(80, 2, of_lr=True).astype(np.float32)
    generator.h_lr.spectrum.copy_(torch.from_numpy(spectrum))
    seen: list[np.ndarray] = []
    generator.h_lr.register_forward_hook(
        lambda layer, given, result: seen.extend(one.detach().numpy() for one in (*given, result))
    )
    lr = kspace.degrade(head(160), 2)
    for gain in (1.0, 4095.0):
        run(generator, gain * lr[None])
    raw, flat, raw_12_bits, flat_12_bits = (np.hypot(one[0, 0], one[0, 1]) for one in seen)
    np.testing.assert_allclose(raw_12_bits, raw, rtol=0, atol=FP32 * raw.max())
    np.testing.assert_allclose(flat_12_bits, flat, rtol=0, atol=FP32 * flat.max())
    assert raw.max() / np.median(raw) > 50  # before h_LR
    assert flat.max() / np.median(flat) < 5  # after it
    assert 0.5 < np.median(flat) < 2
    assert flat.max() < raw.max() < LARGEST_FP16


# --- 7: magnitude and complex LR ------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("upscale", [2, 4])
def test_trap_7_complex_lr_scores_higher_than_what_a_dicom_holds(upscale, seed):
    """0.1 to 0.4 dB for free on patients, 0.8 to 1.0 on this phantom: a whole gain."""
    hr = head(160, seed)
    n, start = 160 // upscale, 80 - 80 // upscale
    complex_lr = plain_image(plain_kspace(hr)[start : start + n, start : start + n]) / upscale
    gain = psnr(np.abs(kspace.zero_fill_image(complex_lr, upscale)), hr) - psnr(
        zero_fill(np.abs(complex_lr), upscale), hr
    )
    assert 0.1 < gain < 1.5
    # Here magnitude is what one gets, and complex has to be asked for by name.
    np.testing.assert_allclose(kspace.degrade(hr, upscale), np.abs(complex_lr), atol=1e-12)
    asked_for = kspace.degrade(hr, upscale, magnitude=False)
    np.testing.assert_allclose(asked_for, complex_lr, atol=1e-12)


def test_trap_7_training_pairs_are_what_a_dicom_holds():
    """Trained on complex crops, a model would meet another kind of image in practice."""
    slices = np.stack([head(64, seed) for seed in range(3)]).astype(np.float16)
    plain = Augmentation(matrix_shrink=1.0, noise_share=0.0)
    series = TrainingSeries(name="heads", slices=slices)
    sampler = PairSampler(
        [series], upscale=2, batch=3, augmentation=plain, rng=np.random.default_rng(0)
    )
    lr, hr = (pair[:, 0].astype(np.float64) for pair in sampler.draw())
    complex_lr = plain_image(plain_kspace(hr)[:, 16:48, 16:48]) / 2
    np.testing.assert_allclose(lr, np.abs(complex_lr), atol=1e-5)
    assert np.abs(complex_lr.real - lr).max() > 0.01  # the two do differ on these slices


def test_trap_7_data_consistency_holds_what_was_given(make_generator):
    """The reference is the k-space of the magnitude: the complex crop is not in the file."""
    hr = head(48)
    given_, crop = kspace.degrade(hr, 2), kspace.degrade(hr, 2, magnitude=False).real
    generator, _ = make_generator("dc-residual", 2)
    sr = run(generator, given_[None])[0]
    assert kspace.measured_residual(sr, given_) < FP32
    assert kspace.measured_residual(sr, crop) > 1e-3


# --- 8: metric conventions ------------------------------------------------------------------------


def test_trap_8_one_result_has_a_figure_for_every_convention():
    """A hundredth of SSIM and several dB between the names, on the very same images."""
    hr = heads(64, 0.8, 0.5, 0.3)  # as shares of the scanner's full scale
    sr = np.maximum(zero_fill(np.stack([kspace.degrade(one, 2) for one in hr]), 2), 0.0)
    found = {convention: evaluate(sr, hr, convention) for convention in CONVENTIONS}
    names = list(found)
    for index, one in enumerate(names):
        for other in names[:index]:
            assert abs(found[one].ssim - found[other].ssim) > 1e-3, (one, other)
    assert found["seed"].ssim > found["slice-range1"].ssim + 0.01  # range 2 flatters
    assert abs(found["fastmri-volume"].psnr_db - found["slice-range1"].psnr_db) > 1.0
    # Normalised, PSNR still differs: mean of slices, or one volume.
    scaled = {
        name: evaluate(sr / hr.max(), hr / hr.max(), name).psnr_db
        for name in ("slice-range1", "fastmri-volume")
    }
    assert scaled["slice-range1"] > scaled["fastmri-volume"] + 1.0


def test_trap_8_every_table_names_its_convention_and_its_lr():
    """A figure without its convention cannot be compared with anything."""
    from kspacesr_rt.bench.quality.evaluation import CONVENTION, QualityRow, as_text

    row = QualityRow(
        data="data",
        series="series",
        method="zero-fill",
        upscale=2,
        n_slices=3,
        quality=Quality(mae=0.01, psnr_db=30.0, ssim=0.9),
    )
    assert CONVENTION in CONVENTIONS
    first = as_text([row]).splitlines()[0]
    assert f"Convention: {CONVENTION}," in first
    assert "magnitude of the inverse FFT of the k-space centre" in first
    with pytest.raises(TypeError, match="convention"):
        evaluate(np.ones((8, 8)), np.ones((8, 8)))  # there is no default to forget
