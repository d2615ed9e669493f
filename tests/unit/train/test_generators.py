"""The seed's network exactly, and what every generator promises about the slices it is given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kspacesr_rt import kspace
from kspacesr_rt.errors import CheckpointError, ModelSpecError
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.train import layers
from kspacesr_rt.train.generators import SeedNetwork, build_generator

ARCHITECTURES = ("seed-kspace", "seed-image", "dc-residual")
FP32 = 2e-6
"""Relative rounding of an fp32 FFT against complex128, a few ulp."""

sizes = st.integers(1, 24)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Positive image-like values between 0 and 1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def run(generator: nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return generator(image)


def kspace_of(image: torch.Tensor) -> np.ndarray:
    """Transform ``(n, 1 or 2, y, x)`` to complex128 k-space without the layers under test."""
    array = image.double().numpy()
    values = array[:, 0] if array.shape[1] == 1 else array[:, 0] + 1j * array[:, 1]
    shifted = np.fft.ifftshift(values, axes=(1, 2))
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(1, 2))


# --- the seed network -----------------------------------------------------------------------------


def seed_state(channels: int, upscale: int, width: int, bias: bool) -> dict[str, tuple[int, ...]]:
    """Write down the seed's state dict: key to shape, in its order."""
    state: dict[str, tuple[int, ...]] = {}

    def conv(key: str, n_in: int, n_out: int, kernel: int) -> None:
        state[f"{key}.weight"] = (n_out, n_in, kernel, kernel)
        if bias:
            state[f"{key}.bias"] = (n_out,)

    conv("block1.0", channels, width, 9)
    state["block1.1.weight"] = (1,)
    for block in range(2, 7):
        for number in (1, 2):
            conv(f"block{block}.conv{number}", width, width, 3)
            for statistic in ("weight", "bias", "running_mean", "running_var"):
                state[f"block{block}.bn{number}.{statistic}"] = (width,)
            state[f"block{block}.bn{number}.num_batches_tracked"] = ()
            if number == 1:
                state[f"block{block}.prelu.weight"] = (1,)
    conv("block7.0", width, width, 3)
    state["block7.1.weight"] = (1,)
    steps = int(math.log2(upscale))
    for step in range(steps):
        conv(f"block8.{step}.conv", width, 4 * width, 3)
        state[f"block8.{step}.prelu.weight"] = (1,)
    conv(f"block8.{steps}", width, channels, 9)
    return state


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("upscale", [2, 4])
def test_the_state_dict_is_the_seeds(channels, upscale, bias):
    """A checkpoint of SR_kspace loads by these keys and shapes, or not at all."""
    state = SeedNetwork(channels, upscale, 64, bias=bias).state_dict()
    expected = seed_state(channels, upscale, 64, bias)
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    assert list(state) == list(expected)


@pytest.mark.parametrize(("upscale", "parameters"), [(2, 576_010), (4, 723_723)])
def test_the_parameter_counts_are_the_published_ones(upscale, parameters):
    """The k-space network of the paper: 64 channels, two in, two out, with bias."""
    network = SeedNetwork(2, upscale)
    assert sum(value.numel() for value in network.parameters()) == parameters


def test_the_seed_network_multiplies_as_often_as_published():
    """31.0 GFLOP at 160 -> 320 and 16.9 at 80 -> 320: the layers sit on the right grids."""
    for upscale, lr, gflop in ((2, 160, 31.0), (4, 80, 16.9)):
        total = 0

        def count(layer: nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
            nonlocal total
            total += layer.weight.numel() * output.shape[-1] * output.shape[-2]

        with torch.device("meta"):
            network = SeedNetwork(2, upscale)
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    module.register_forward_hook(count)
            assert network(torch.empty(1, 2, lr, lr)).shape == (1, 2, 320, 320)
        assert 2 * total / 1e9 == pytest.approx(gflop, abs=0.1)


def test_the_seed_network_is_wired_as_the_seed(make_generator):
    """Shallow features are added behind block7, before upsampling; written out in functional form.

    State-dict keys alone would not notice a skip from the wrong place or a PReLU left out.
    """
    generator, _ = make_generator("seed-kspace", 4, data_consistency="none")
    network, state = generator.network, generator.network.state_dict()

    def conv(x: torch.Tensor, key: str, padding: int) -> torch.Tensor:
        weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
        return nn.functional.conv2d(x, weight, bias, padding=padding)

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        mean, variance, weight, bias = (
            state[f"{key}.{name}"][None, :, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def prelu(x: torch.Tensor, key: str) -> torch.Tensor:
        return torch.where(x >= 0, x, x * state[f"{key}.weight"])

    x = noise(2, 2, 9, 12)
    shallow = prelu(conv(x, "block1.0", 4), "block1.1")
    deep = shallow
    for block in range(2, 7):
        inner = norm(conv(deep, f"block{block}.conv1", 1), f"block{block}.bn1")
        inner = prelu(inner, f"block{block}.prelu")
        deep = deep + norm(conv(inner, f"block{block}.conv2", 1), f"block{block}.bn2")
    value = shallow + prelu(conv(deep, "block7.0", 1), "block7.1")
    for step in range(2):
        value = conv(value, f"block8.{step}.conv", 1)
        n, c, rows, columns = value.shape
        value = value.reshape(n, c // 4, 2, 2, rows, columns).permute(0, 1, 4, 2, 5, 3)
        value = prelu(value.reshape(n, c // 4, 2 * rows, 2 * columns), f"block8.{step}.prelu")
    expected = conv(value, "block8.2", 4)
    torch.testing.assert_close(run(network, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upscale", [1, 3, 6])
def test_the_seed_network_refuses_what_pixel_shuffle_by_two_cannot_do(upscale):
    """Rounding log2(3) up would silently give a x4 network."""
    with pytest.raises(CheckpointError) as caught:
        SeedNetwork(2, upscale)
    assert str(caught.value) == f"the seed network upscales by 2 or 4, not by {upscale}"


@pytest.mark.parametrize("architecture", ["dc-residual", "seed-image"])
def test_without_memory_no_weights_are_drawn(make_spec, architecture, monkeypatch):
    """To draw them there, torch loads its compiler: a second and a half of every export."""

    def refuse(weight, **how):
        raise AssertionError(f"drawn on {weight.device}")

    monkeypatch.setattr(nn.init, "normal_", refuse)
    with torch.device("meta"):
        generator = build_generator(make_spec(architecture))
    assert all(one.is_meta for one in generator.parameters())
    with pytest.raises(AssertionError, match="drawn on cpu"):
        build_generator(make_spec("dc-residual"))


def test_a_baseline_has_no_generator():
    """'none' is a valid architecture of a specification; weights for it do not exist."""
    with pytest.raises(CheckpointError) as caught:
        build_generator(ModelSpec(name="zero-fill", architecture="none", upscale=2))
    assert str(caught.value) == "zero-fill: architecture 'none' has no weights"


# --- every generator ------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [(16, 16), (17, 16), (16, 23), (15, 21)])
@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_sr_matrix_is_upscale_times_the_lr_one(make_generator, architecture, upscale, matrix):
    """A patient's series is rarely square or even; one generator serves every matrix."""
    generator, _ = make_generator(architecture, upscale)
    result = run(generator, noise(2, 1, *matrix))
    assert result.shape == (2, 1, matrix[0] * upscale, matrix[1] * upscale)
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_slice_does_not_depend_on_its_batch_mates(make_generator, architecture):
    """Scaling or shifting over the batch axis made the seed's results depend on neighbours.

    The mates differ by four decades in intensity, so sharing a maximum would show at once.
    """
    generator, _ = make_generator(architecture, 2)
    slices = noise(4, 1, 16, 15) * torch.tensor([1.0, 1e4, 0.0, 3.0]).reshape(4, 1, 1, 1)
    together = run(generator, slices)
    for index in range(4):
        alone = run(generator, slices[index : index + 1])[0]
        # Convolutions may sum in another order for another batch size: 1e-6 of the slice.
        error = float((together[index] - alone).abs().max())
        assert error <= 1e-6 * float(alone.abs().max())


@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_empty_slice_stays_empty(make_generator, architecture, upscale):
    """0 / 0 in the normalisation would fill the first slice above the head with NaN."""
    generator, _ = make_generator(architecture, upscale)
    result = run(generator, torch.zeros(1, 1, 16, 16))
    assert torch.isfinite(result).all()
    # A network with bias yields its own pattern times `TINY`, far below any stored value.
    assert float(result.abs().max()) <= 100 * layers.TINY


@pytest.mark.parametrize("gain", [1e-4, 7.0, 1e5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_units_do_not_matter(make_generator, architecture, gain):
    """Scanner units differ by five decades; the result must scale with them and nothing else."""
    generator, _ = make_generator(architecture, 2)
    image = noise(1, 1, 16, 20)
    expected = run(generator, image) * gain
    error = (run(generator, image * gain) - expected).abs().max() / expected.abs().max()
    assert float(error) < 1e-5


@pytest.mark.parametrize("bias", [False, True])
def test_without_bias_the_residual_generator_is_homogeneous_by_itself(make_generator, bias):
    """Scaling a series scales its result even without the normalisation; a bias breaks it."""
    generator, _ = make_generator("dc-residual", 2, bias=bias)

    class NoNormalisation(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(image), 1, 1, 1)

    generator.maximum = NoNormalisation()
    image = noise(1, 1, 16, 16)
    expected = run(generator, image) * 0.01
    error = (run(generator, image * 0.01) - expected).abs().max() / expected.abs().max()
    assert (float(error) < 1e-5) == (not bias)


# --- data consistency -----------------------------------------------------------------------------


def measured_error(generator: nn.Module, image: torch.Tensor, upscale: int) -> np.ndarray:
    """Return the relative error of each slice's measured samples in the complex output."""
    generator.magnitude = nn.Identity()  # the complex image, before its magnitude is taken
    rows, columns = image.shape[-2:]
    output = kspace_of(run(generator, image)) / upscale
    top, left = upscale * rows // 2 - rows // 2, upscale * columns // 2 - columns // 2
    kept = output[:, top : top + rows, left : left + columns]
    measured = kspace_of(image)
    return np.linalg.norm(kept - measured, axis=(1, 2)) / np.linalg.norm(measured, axis=(1, 2))


@pytest.mark.parametrize("matrix", [(16, 16), (17, 15), (16, 21)])
@pytest.mark.parametrize("upscale", [2, 4])
def test_hard_consistency_keeps_every_measured_sample(make_generator, upscale, matrix):
    """The measured part of k-space is the patient's; no weights, trained or not, may touch it."""
    generator, _ = make_generator("seed-kspace", upscale, data_consistency="hard")
    assert measured_error(generator, noise(3, 1, *matrix), upscale).max() < 1e-5


@pytest.mark.parametrize("consistency", ["additive", "none"])
def test_the_other_modes_do_not_keep_measured_samples(make_generator, consistency):
    """The seed's skip is added to what the network says there: results must not claim more."""
    generator, _ = make_generator("seed-kspace", 2, data_consistency=consistency)
    assert measured_error(generator, noise(3, 1, 16, 16), 2).min() > 1e-2


def test_the_additive_skip_adds_the_measured_centre(make_generator):
    """Additive minus none is the zero-filled image, in the complex domain and in image units."""
    image = noise(2, 1, 16, 17)
    outputs = []
    for consistency in ("additive", "none"):
        generator, _ = make_generator("seed-kspace", 2, data_consistency=consistency)
        generator.magnitude = nn.Identity()
        outputs.append(run(generator, image).double().numpy())
    difference = kspace.from_channels(outputs[0] - outputs[1])
    expected = kspace.zero_fill_image(image[:, 0].double().numpy(), 2)
    np.testing.assert_allclose(difference, expected, atol=2e-5)


@pytest.mark.parametrize("matrix", [(17, 15), (16, 16), (15, 22)])
@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_the_residual_generator_keeps_what_a_real_image_can_keep(make_generator, upscale, matrix):
    """Every measured sample, but for the Nyquist line of an even axis, which a real image mixes."""
    generator, _ = make_generator("dc-residual", upscale)
    image = noise(2, 1, *matrix)
    rows, columns = matrix
    output = kspace_of(run(generator, image)) / upscale
    top, left = upscale * rows // 2 - rows // 2, upscale * columns // 2 - columns // 2
    inner = (slice(None), slice(1 - rows % 2, None), slice(1 - columns % 2, None))
    kept = output[:, top : top + rows, left : left + columns][inner]
    measured = kspace_of(image)[inner]
    assert np.linalg.norm(kept - measured) / np.linalg.norm(measured) < 1e-5


def magnitude_error(sr: torch.Tensor, lr: torch.Tensor, upscale: int) -> np.ndarray:
    """Return how far each slice's ``|IFFT(crop(F(sr)))|`` is from LR, over the LR maximum."""
    rows, columns = lr.shape[-2:]
    output = kspace_of(sr) / upscale
    top, left = upscale * rows // 2 - rows // 2, upscale * columns // 2 - columns // 2
    kept = output[:, top : top + rows, left : left + columns]
    again = np.abs(np.fft.ifft2(np.fft.ifftshift(kept, axes=(1, 2)), norm="ortho"))
    stored = np.fft.ifftshift(lr[:, 0].double().numpy(), axes=(1, 2))
    return np.abs(again - stored).max(axis=(1, 2)) / stored.max(axis=(1, 2))


@pytest.mark.parametrize("matrix", [(17, 15), (16, 16), (15, 22)])
@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_magnitude_consistency_keeps_the_magnitude_of_every_sample(make_generator, upscale, matrix):
    """A shorter scan of the result would have stored LR, whatever signs the weights predict."""
    generator, _ = make_generator("dc-residual", upscale, data_consistency="magnitude")
    image = noise(2, 1, *matrix)
    sr = run(generator, image)
    assert magnitude_error(sr, image, upscale).max() < 1e-5
    # Not by leaving every sign alone: LR as it is, is not what the crop of the result shows.
    generator.sign_heads = nn.ModuleList(nn.Conv2d(4, 1, 3, padding=1) for _ in range(2))
    for head in generator.sign_heads:
        nn.init.zeros_(head.weight)
        nn.init.constant_(head.bias, -0.5 * upscale)
    signed = run(generator, image)
    assert magnitude_error(signed, image, upscale).max() < 1e-5
    rows, columns = image.shape[-2:]
    top, left = upscale * rows // 2 - rows // 2, upscale * columns // 2 - columns // 2
    kept = kspace_of(signed)[:, top : top + rows, left : left + columns] / upscale
    shifted = np.fft.ifft2(np.fft.ifftshift(kept, axes=(1, 2)), norm="ortho")
    again = torch.from_numpy(np.fft.fftshift(shifted, axes=(1, 2)).real)[:, None]
    share = image / image.amax(dim=(1, 2, 3), keepdim=True)
    clear = (share - 0.5).abs() > 1e-3
    assert torch.equal((again < 0)[clear], (share < 0.5)[clear])


def test_untrained_sign_heads_change_nothing_but_the_nyquist_lines():
    """Training starts from hard consistency; on odd matrices there is no Nyquist line at all."""
    generators = []
    for consistency in ("hard", "magnitude"):
        torch.manual_seed(0)
        spec = ModelSpec(
            name="x",
            architecture="dc-residual",
            upscale=2,
            width=4,
            blocks=2,
            data_consistency=consistency,
        )
        generators.append(build_generator(spec).eval())
    hard, magnitude = generators
    magnitude.load_state_dict(hard.state_dict(), strict=False)
    image = noise(2, 1, 17, 15)
    assert torch.equal(run(hard, image), run(magnitude, image))
    even = noise(2, 1, 16, 15)
    difference = np.abs(kspace_of(run(hard, even)) - kspace_of(run(magnitude, even)))
    assert difference[:, [8, 24]].max() > 1e-3
    difference[:, [8, 24]] = 0.0
    assert difference.max() < 1e-5


def test_the_sign_passes_the_gradient_of_a_soft_step():
    """A step has no slope: its weights would never move. Forward it must stay a step."""
    samples = torch.tensor([0.5, 0.2, 0.0, 0.3], dtype=torch.float64).reshape(1, 1, 2, 2)
    predicted = torch.tensor([0.1, -0.25, 0.0, -0.2], dtype=torch.float64).reshape(1, 1, 2, 2)
    predicted.requires_grad_()
    signed = layers.SampleSign(0.1)(samples, predicted)
    assert signed.flatten().tolist() == [0.5, -0.2, 0.0, 0.3]
    signed.sum().backward()
    slope = samples / (0.1 * torch.cosh((samples + predicted.detach()) / 0.1) ** 2)
    torch.testing.assert_close(predicted.grad, slope)


@pytest.mark.parametrize("architecture", ["seed-kspace", "seed-image"])
def test_only_the_residual_generator_has_signs(architecture):
    """A specification that no generator can keep is refused where it is made."""
    with pytest.raises(ModelSpecError, match="signs of LR samples"):
        ModelSpec(name="x", architecture=architecture, upscale=2, data_consistency="magnitude")


def test_the_residual_generator_predicts_outside_the_measured_band(make_generator):
    """Consistency that was bought by doing nothing would be zero-filling."""
    generator, _ = make_generator("dc-residual", 2)
    image = noise(1, 1, 17, 17)
    predicted = kspace_of(run(generator, image))
    zero_filled = kspace.fft2c(kspace.zero_fill_image(image[0].double().numpy(), 2).real)
    assert np.linalg.norm(predicted - zero_filled) > 0.05 * np.linalg.norm(zero_filled)


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.FFT2c(), (1, 1, 4, 5)),
        (layers.FFT2c(2, 1), (1, 2, 4, 6)),
        (layers.IFFT2c(1, 2), (2, 2, 3, 2)),
        (layers.IFFT2c(1, 3, channels=1), (1, 2, 3, 4)),
        (layers.CentreCrop(2, 1), (1, 2, 4, 6)),
        (layers.CentreFill(1, 2), (1, 2, 3, 4)),
        (layers.Magnitude(), (1, 2, 3, 3)),
        (layers.SliceMaximum(), (2, 1, 3, 3)),
        (layers.WholeNyquist(), (1, 2, 4, 5)),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else None,
)
def test_each_layer_passes_the_right_gradient(layer, shape):
    """The loss is taken in the image: k-space weights learn only through these derivatives."""
    image = noise(*shape).double().requires_grad_()
    assert torch.autograd.gradcheck(layer, image)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_image_loss_reaches_every_weight_with_the_right_slope(make_generator, architecture):
    """Finite differences through FFT, network and inverse FFT agree with back-propagation."""
    generator, _ = make_generator(architecture, 2, width=2, blocks=2)
    generator = generator.double()
    image, target = noise(1, 1, 6, 5).double(), noise(1, 1, 12, 10, seed=1).double()
    parameters = list(generator.parameters())
    torch.manual_seed(2)
    directions = [torch.randn_like(value) for value in parameters]

    def loss() -> torch.Tensor:
        return nn.functional.mse_loss(generator(image), target)

    loss().backward()
    assert all(float(value.grad.abs().sum()) > 0.0 for value in parameters)
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True))
    step, ends = 1e-7, []
    with torch.no_grad():
        for sign in (1.0, -2.0):
            for value, direction in zip(parameters, directions, strict=True):
                value += sign * step * direction
            ends.append(float(loss()))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)


def test_the_gradient_of_the_magnitude_at_zero_is_zero():
    """Air is exactly zero in many series: one NaN gradient there would end a training."""
    channels = torch.zeros(1, 2, 3, 3, requires_grad=True)
    layers.Magnitude()(channels).sum().backward()
    assert torch.equal(channels.grad, torch.zeros_like(channels))


# --- layers against the project's one definition --------------------------------------------------


@given(sizes, sizes, st.sampled_from([1, 2]), st.integers(1, 3))
def test_the_transforms_are_the_projects(rows, columns, channels, n):
    """PyTorch's layers against kspace.py in complex128, for even and odd sizes and batches."""
    image = noise(n, channels, rows, columns) - 0.3
    wide = image.double().numpy()
    values = wide[:, 0] if channels == 1 else kspace.from_channels(wide)
    for layer, transform in (
        (layers.FFT2c(), kspace.fft2c),
        (layers.IFFT2c(), kspace.ifft2c),
    ):
        result = kspace.from_channels(layer(image).double().numpy())
        expected = transform(values)
        assert np.abs(result - expected).max() <= FP32 * max(1.0, np.abs(expected).max())


@given(sizes, sizes, st.integers(1, 4))
def test_crops_and_fills_are_the_projects(rows, columns, upscale):
    """Folded into a transform or alone: the same samples in the same places, for every parity."""
    fine = (rows * upscale, columns * upscale)
    image, spectrum = noise(2, 2, *fine), noise(2, 2, rows, columns, seed=1)
    cropped = layers.CentreCrop(upscale, 1)(image).numpy()
    filled = layers.CentreFill(1, upscale)(spectrum).numpy()
    assert np.array_equal(cropped, kspace.centre_crop(image.numpy(), (rows, columns)))
    assert np.array_equal(filled, kspace.centre_fill(spectrum.numpy(), fine))
    wide = kspace.from_channels(image.double().numpy())
    expected = kspace.centre_crop(kspace.fft2c(wide), (rows, columns))
    result = kspace.from_channels(layers.FFT2c(upscale, 1)(image).double().numpy())
    assert np.abs(result - expected).max() <= 2 * FP32 * np.abs(expected).max()
    wide = kspace.from_channels(spectrum.double().numpy())
    expected = kspace.ifft2c(kspace.centre_fill(wide, fine))
    result = kspace.from_channels(layers.IFFT2c(1, upscale)(spectrum).double().numpy())
    assert np.abs(result - expected).max() <= 2 * FP32 * np.abs(expected).max()


def test_half_precision_is_widened_before_a_transform():
    """k-space spans 1e4: in bfloat16 its rim would be rounded away before it is seen."""
    image = noise(1, 1, 16, 16).bfloat16()
    result = layers.FFT2c()(image)
    assert result.dtype == torch.float32
    assert torch.equal(result, layers.FFT2c()(image.float()))


def test_the_slice_maximum_is_taken_of_magnitudes_slice_by_slice():
    """Signed input (a phase-corrected image) is scaled by its size, not by its largest value."""
    image = torch.tensor([[1.0, -5.0], [2.0, 3.0], [0.0, 0.0]]).reshape(3, 1, 1, 2)
    maximum = layers.SliceMaximum()(image)
    assert maximum.shape == (3, 1, 1, 1)
    assert maximum.flatten().tolist() == pytest.approx([5.0, 3.0, layers.TINY])


@pytest.mark.parametrize("divide", [True, False])
def test_the_mean_spectrum_divides_in_front_and_multiplies_behind(divide):
    """h_LR and h_HR swapped would square the dynamic range instead of flattening it."""
    layer = layers.MeanSpectrum(8, divide=divide)
    layer.spectrum.copy_(torch.linspace(1.0, 64.0, 64).reshape(8, 8))
    signal = noise(2, 2, 8, 8)
    expected = signal / layer.spectrum if divide else signal * layer.spectrum
    torch.testing.assert_close(layer(signal), expected)


def test_an_unmeasured_spectrum_changes_nothing_on_its_own_matrix():
    """Bare seed weights carry no spectra: the neutral ones must be neutral."""
    signal = noise(1, 2, 8, 8)
    assert torch.equal(layers.MeanSpectrum(8, divide=True)(signal), signal)


# --- complex k-space ------------------------------------------------------------------------------


def complex_generator(upscale: int = 2) -> nn.Module:
    spec = ModelSpec(
        name="complex",
        architecture="dc-residual",
        upscale=upscale,
        width=8,
        blocks=2,
        cascades=2,
        matrix=(16, 16),
        input="kspace",
        output="kspace",
        data_consistency="hard",
    )
    torch.manual_seed(1)
    generator = build_generator(spec).eval()
    with torch.no_grad():  # as built, its convolutions add next to nothing
        for weight in generator.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return generator


def joined(channels: torch.Tensor) -> torch.Tensor:
    return torch.complex(channels[:, 0], channels[:, 1])


@pytest.mark.parametrize(("upscale", "matrix"), [(2, (12, 12)), (2, (11, 14)), (4, (9, 10))])
def test_a_network_of_kspace_keeps_measured_samples_and_turns_with_the_phase(upscale, matrix):
    generator = complex_generator(upscale)
    given = torch.randn(2, 2, *matrix, generator=torch.Generator().manual_seed(2))
    result = run(generator, given)
    assert result.shape == (2, 2, *(upscale * n for n in matrix))
    top = float(given.abs().max())
    kept = layers.centre_crop(result, *matrix)
    assert float((kept - upscale * given).abs().max()) < 1e-5 * upscale * top
    beyond = result - layers.centre_fill(kept, *result.shape[-2:])
    assert float(beyond.abs().max()) > 1e-3 * top  # it does predict something
    turned = joined(given) * np.exp(0.7j)
    of_turned = run(generator, torch.stack([turned.real, turned.imag], dim=1))
    off = (joined(of_turned) - joined(result) * np.exp(0.7j)).abs().max()
    assert float(off) < 1e-4 * float(result.abs().max())
    scaled = run(generator, 1000.0 * given)
    assert float((scaled / 1000.0 - result).abs().max()) < 1e-4 * float(result.abs().max())


def test_a_network_of_kspace_has_the_weights_of_one_of_images():
    of_images = build_generator(
        ModelSpec(
            name="m", architecture="dc-residual", upscale=2, width=8, blocks=2, cascades=2,
            data_consistency="hard",
        )
    )  # fmt: skip
    shapes = {key: value.shape for key, value in of_images.state_dict().items()}
    ours = {key: value.shape for key, value in complex_generator().state_dict().items()}
    assert ours == shapes


def test_kspace_of_zeros_gives_zeros():
    result = run(complex_generator(), torch.zeros(1, 2, 8, 8))
    assert not result.any()


def test_a_network_of_kspace_keeps_measured_samples_or_is_none():
    with pytest.raises(ModelSpecError, match="keeps measured samples"):
        ModelSpec(
            name="m", architecture="dc-residual", upscale=2, blocks=1, input="kspace",
            output="kspace", data_consistency="none",
        )  # fmt: skip
