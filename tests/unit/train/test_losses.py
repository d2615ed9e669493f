"""Losses have the values and gradients that their formulas say; the discriminator can learn."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from torch import nn

from kspacesr_rt import kspace
from kspacesr_rt.errors import CheckpointError, InputError, ShapeError
from kspacesr_rt.quality import metrics
from kspacesr_rt.train.discriminator import Discriminator, discriminator_loss
from kspacesr_rt.train.layers import FFT2c, IFFT2c
from kspacesr_rt.train.losses import (
    CHARBONNIER_WIDTH,
    LOSSES,
    MSE_FLOOR,
    SEED_WEIGHTS,
    VGG_FILE,
    GeneratorLoss,
    LossWeights,
    VGGFeatures,
    find_vgg_features,
    l1_ssim,
    ssim,
    total_variation,
)

VGG_CHANNELS = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
    14: (256, 256), 17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512),
    26: (512, 512), 28: (512, 512),
}  # fmt: skip
"""Convolutions of torchvision's ``vgg16().features``, by index."""
VGG_POOLINGS = (4, 9, 16, 23, 30)

DISCRIMINATOR_CONVOLUTIONS = {
    0: (1, 64, 1), 2: (64, 64, 2), 5: (64, 128, 1), 8: (128, 128, 2), 11: (128, 256, 1),
    14: (256, 256, 2), 17: (256, 512, 1), 20: (512, 512, 2),
}  # fmt: skip
"""3x3 convolutions of SR_kspace's ``netD.net`` by index: channels in, channels out, stride."""


def pair(n: int = 3, matrix: tuple[int, int] = (9, 12), seed: int = 0):
    """Make SR and HR in float64, every slice with an error of another size."""
    rng = np.random.default_rng(seed)
    hr = rng.random((n, 1, *matrix))
    error = rng.standard_normal(hr.shape) * 10.0 ** -np.arange(1, n + 1)[:, None, None, None]
    return hr + error, hr


def tensors(*arrays: np.ndarray, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.from_numpy(array).to(dtype) for array in arrays]


def slow_value(name: str, sr: np.ndarray, hr: np.ndarray) -> float:
    """Compute a loss pixel by pixel."""
    if name == "l1-ssim":
        return slow_value("l1", sr, hr) + 0.1 * (1.0 - metrics.ssim(sr[:, 0], hr[:, 0], 1.0))
    per_slice = []
    for one, reference in zip(sr, hr, strict=True):
        differences = [a - b for a, b in zip(one.flat, reference.flat, strict=True)]
        if name == "l1":
            values = [abs(d) for d in differences]
        elif name == "charbonnier":
            values = [math.hypot(d, CHARBONNIER_WIDTH) for d in differences]
        else:
            values = [d * d for d in differences]
        mean = math.fsum(values) / len(values)
        per_slice.append(math.log10(mean + MSE_FLOOR) if name == "psnr" else mean)
    return math.fsum(per_slice) / len(per_slice)


def written_out_gradient(name: str, sr: np.ndarray, hr: np.ndarray) -> np.ndarray:
    """Differentiate the formulas by hand."""
    difference = sr - hr
    if name == "l1":
        return np.sign(difference) / difference.size
    if name == "mse":
        return 2.0 * difference / difference.size
    if name == "charbonnier":
        return difference / np.hypot(difference, CHARBONNIER_WIDTH) / difference.size
    per_slice = np.mean(difference**2, axis=(1, 2, 3), keepdims=True)
    return 2.0 * difference / difference.size / (per_slice + MSE_FLOOR) / math.log(10.0)


PIXELWISE = ("l1", "mse", "psnr", "charbonnier")
"""Losses that compare pixel with pixel."""


# --- image terms ----------------------------------------------------------------------------------


def test_the_image_losses_are_these():
    """Recipes name them, so a renamed one is a recipe that no longer runs."""
    assert list(LOSSES) == [*PIXELWISE, "l1-ssim"]


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_loss_has_the_value_of_its_formula(name):
    """Against sums over single pixels."""
    sr, hr = pair()
    value = LOSSES[name](*tensors(sr, hr))
    assert value.shape == ()
    assert float(value) == pytest.approx(slow_value(name, sr, hr), rel=1e-12)


@pytest.mark.parametrize("name", PIXELWISE)
def test_gradients_pass_through_the_inverse_fft_to_kspace(name):
    """A unitary transform turns the image's gradient into its k-space, nothing lost or scaled."""
    sr, hr = pair()
    (image, reference) = tensors(sr, hr)
    samples = FFT2c()(image).requires_grad_()
    LOSSES[name](IFFT2c(channels=1)(samples), reference).backward()
    expected = kspace.fft2c(written_out_gradient(name, sr, hr)[:, 0] + 0j)
    np.testing.assert_allclose(samples.grad[:, 0], expected.real, atol=1e-12 * abs(expected).max())
    np.testing.assert_allclose(samples.grad[:, 1], expected.imag, atol=1e-12 * abs(expected).max())


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_slice_has_a_finite_gradient(name):
    """Air is predicted exactly; a NaN from there would end the training of everything else."""
    sr, hr = tensors(*pair(), dtype=torch.float32)
    sr[1] = hr[1] = 0.0
    sr.requires_grad_()
    LOSSES[name](sr, hr).backward()
    assert torch.isfinite(sr.grad).all()
    assert not sr.grad[1].any()
    assert sr.grad[0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_image_losses_are_wide_under_autocast(name, dtype):
    """Summing squares in half precision stops at the first digits, or overflows."""
    sr, hr = tensors(*pair(2, (40, 40)), dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](sr, hr)
    assert value.dtype == torch.float32
    expected = slow_value(name, sr.double().numpy(), hr.double().numpy())
    assert float(value) == pytest.approx(expected, rel=1e-5)  # sums of 3200 numbers in fp32


@pytest.mark.parametrize("name", LOSSES)
def test_slices_of_another_shape_are_refused(name):
    """(n, y, x) would broadcast against (n, 1, y, x) and train on every wrong pair of slices."""
    sr, hr = tensors(*pair(3, (8, 8)))
    with pytest.raises(ShapeError, match=r"\(3, 1, 8, 8\) and \(3, 8, 8\)"):
        LOSSES[name](sr, hr[:, 0])


def test_psnr_is_the_mean_psnr_in_bels():
    """What the logarithm is for: the mean over slices, not the PSNR of the mean."""
    hr = np.zeros((2, 1, 8, 8))
    sr = hr + np.array([0.1, 0.001]).reshape(2, 1, 1, 1)  # 20 and 60 dB
    value = float(LOSSES["psnr"](*tensors(sr, hr)))
    assert -10.0 * value == pytest.approx(40.0, abs=0.03)  # the floor takes 0.04 dB of the second


def test_a_slice_counts_the_same_whatever_its_batch_mates_are():
    """With MSE the worst slice of a batch drowns the others."""
    sr, hr = tensors(*pair(3))
    others_sr, others_hr = tensors(*pair(3, seed=1))

    def gradient(*slices: torch.Tensor) -> torch.Tensor:
        stack = torch.cat([one[:1] for one in slices[::2]]).requires_grad_()
        LOSSES["psnr"](stack, torch.cat([one[:1] for one in slices[1::2]])).backward()
        return stack.grad[0] * len(stack)

    alone = gradient(sr, hr)
    beside_bad = gradient(sr, hr, others_sr * 100.0, others_hr)
    beside_good = gradient(sr, hr, others_hr + 1e-4, others_hr, others_sr, others_hr)
    torch.testing.assert_close(beside_bad, alone, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(beside_good, alone, rtol=1e-12, atol=0.0)
    singles = [float(LOSSES["psnr"](sr[i : i + 1], hr[i : i + 1])) for i in range(3)]
    assert float(LOSSES["psnr"](sr, hr)) == pytest.approx(np.mean(singles), rel=1e-12)


def test_a_gain_on_a_slice_only_adds_a_constant_to_psnr():
    """Dark slices and bright ones ask for the same relative step."""
    sr, hr = tensors(*pair(1))
    gain = 0.1
    dark_sr = (gain * sr).requires_grad_()
    bright_sr = sr.clone().requires_grad_()
    dark, bright = LOSSES["psnr"](dark_sr, gain * hr), LOSSES["psnr"](bright_sr, hr)
    (dark + bright).backward()
    # MSE is 1e-2 and 1e-4: the floor is 1e-4 of the smaller one.
    assert float((dark - bright).detach()) == pytest.approx(2.0 * math.log10(gain), abs=1e-4)
    torch.testing.assert_close(gain * dark_sr.grad, bright_sr.grad, rtol=2e-4, atol=0.0)


def test_the_floor_stops_a_slice_that_is_fitted_to_its_rounding():
    """Below 80 dB of error power the pull weakens instead of growing without bound."""
    hr = torch.zeros(1, 1, 16, 16, dtype=torch.float64)

    def pull(error: float) -> float:
        sr = (hr + error).requires_grad_()
        LOSSES["psnr"](sr, hr).backward()
        return float(sr.grad.norm())

    at_floor = math.sqrt(MSE_FLOOR)
    assert pull(100 * at_floor) < pull(10 * at_floor) < pull(at_floor)
    assert pull(0.01 * at_floor) < pull(0.1 * at_floor) < pull(at_floor)


# --- total variation ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 1, 5, 8), (2, 3, 7, 4)])
def test_total_variation_is_the_seeds_formula(shape):
    """Twice the sum of both mean squared differences, counted per slice, over the slices."""
    image = np.random.default_rng(0).standard_normal(shape)
    n, channels, rows, columns = shape
    vertical = horizontal = 0.0
    for i, c, y, x in np.ndindex(shape):
        if y + 1 < rows:
            vertical += (image[i, c, y + 1, x] - image[i, c, y, x]) ** 2
        if x + 1 < columns:
            horizontal += (image[i, c, y, x + 1] - image[i, c, y, x]) ** 2
    count_v, count_h = channels * (rows - 1) * columns, channels * rows * (columns - 1)
    expected = 2.0 * (vertical / count_v + horizontal / count_h) / n
    assert float(total_variation(*tensors(image))) == pytest.approx(expected, rel=1e-12)


def test_total_variation_of_a_line_is_refused():
    """It has no neighbours on one axis: a mean of nothing is NaN."""
    with pytest.raises(ShapeError, match=r"at least 2 x 2, found \(1, 1, 1, 9\)"):
        total_variation(torch.zeros(1, 1, 1, 9))


# --- VGG16 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg_weights() -> dict[str, torch.Tensor]:
    """Make weights as torchvision names and shapes them, so that features neither die nor blow up.

    The state dict also holds a classifier's key, as torchvision's does.
    """
    random = torch.Generator().manual_seed(0)
    weights = {"classifier.6.bias": torch.zeros(1000)}
    for index, (before, width) in VGG_CHANNELS.items():
        spread = math.sqrt(2.0 / (9 * before))
        shape = (width, before, 3, 3)
        weights[f"features.{index}.weight"] = torch.randn(shape, generator=random) * spread
        weights[f"features.{index}.bias"] = torch.randn(width, generator=random) * 0.1
    return weights


@pytest.fixture(scope="module")
def vgg_cache(vgg_weights, tmp_path_factory):
    """Lay out a TORCH_HOME as torchvision leaves it; treat it as read-only."""
    home = tmp_path_factory.mktemp("torch-home")
    checkpoints = home / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(vgg_weights, checkpoints / VGG_FILE)
    return home


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    return tmp_path / "empty" / "hub" / "checkpoints" / VGG_FILE


def slow_features(weights: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """Apply the 31 layers one after the other, by torchvision's indices."""
    features = torch.cat([image] * 3, dim=1)
    for index in range(31):
        if index in VGG_CHANNELS:
            weight, bias = (weights[f"features.{index}.{what}"] for what in ("weight", "bias"))
            features = nn.functional.conv2d(features, weight, bias, padding=1)
        elif index in VGG_POOLINGS:
            features = nn.functional.max_pool2d(features, 2)
        else:
            features = features.clamp_min(0.0)
    return features


def test_vgg_features_are_those_of_torchvisions_layers(vgg_weights):
    """The keys fit a file that torchvision wrote, and the layers between them do what they should.

    33 x 40 leaves 1 x 1: every pooling rounds down.
    """
    features = VGGFeatures(vgg_weights)
    assert features.state_dict().keys() == vgg_weights.keys() - {"classifier.6.bias"}
    assert len(features.features) == 31
    assert sum(one.numel() for one in features.parameters()) == 14_714_688  # torchvision's, too
    sr, hr = tensors(*pair(2, (33, 40)), dtype=torch.float32)
    difference = slow_features(vgg_weights, sr) - slow_features(vgg_weights, hr)
    assert difference.shape == (2, 512, 1, 1)
    assert float(features(sr, hr)) == pytest.approx(float(difference.square().mean()), rel=1e-5)
    assert float(features(hr, hr)) == 0.0


def test_vgg_is_frozen_and_only_the_image_gets_a_gradient(vgg_weights):
    """A feature loss that trains its own yardstick falls without anything getting better."""
    sr, hr = tensors(*pair(1, (32, 32)), dtype=torch.float32)
    state = torch.get_rng_state()
    loss = GeneratorLoss("l1", LossWeights(image=0.0, features=2.0), VGGFeatures(vgg_weights))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in loss.features.modules())
    loss.train()
    assert not any(module.training for module in loss.features.modules())
    sr.requires_grad_()
    hr.requires_grad_()
    total, terms = loss(sr, hr)
    total.backward()
    assert torch.isfinite(sr.grad).all()
    assert sr.grad.any()
    assert hr.grad is None
    assert all(one.grad is None and not one.requires_grad for one in loss.parameters())
    assert float(total.detach()) == pytest.approx(2.0 * float(terms["features"]), rel=1e-6)


def test_vgg_needs_an_image_that_survives_five_poolings(vgg_weights):
    """The smallest size is said; torch's own message would be about an output that is too small."""
    image = torch.zeros(1, 1, 31, 64)
    with pytest.raises(ShapeError, match=r"at least 32 samples per axis, found .*31, 64"):
        VGGFeatures(vgg_weights)(image, image)


def test_vgg_weights_are_found_where_torchvision_puts_them(vgg_cache, vgg_weights, monkeypatch):
    """Nothing to configure for who has them; the note says which weights they are."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(vgg_cache))
    features, note = find_vgg_features()
    path = vgg_cache / "hub" / "checkpoints" / VGG_FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert note == f"VGG16 feature loss from {VGG_FILE}, SHA-256 {digest[:12]}"
    stored = features.state_dict()
    assert all(torch.equal(stored[name], vgg_weights[name]) for name in stored)


def test_vgg_weights_can_be_named(vgg_cache, empty_cache, tmp_path):
    """On a machine without torchvision, a copied file is enough, whatever it is called."""
    given = tmp_path / "mine.pth"
    given.symlink_to(vgg_cache / "hub" / "checkpoints" / VGG_FILE)
    features, note = find_vgg_features(given)
    assert isinstance(features, VGGFeatures)
    assert note.startswith("VGG16 feature loss from mine.pth, SHA-256 ")


def test_without_vgg_weights_the_term_is_off_and_says_so(empty_cache):
    """Nothing is downloaded behind the user's back, and nothing is left out without a word."""
    assert find_vgg_features() == (
        None,
        f"VGG16 feature loss is off: torch's hub cache holds no {VGG_FILE}; "
        "torchvision.models.vgg16(weights='IMAGENET1K_V1') puts it there, "
        "or name such a file with --vgg-weights",
    )
    assert not empty_cache.exists()


def test_a_named_file_that_is_missing_is_an_error(empty_cache, tmp_path):
    """Who names a file has asked for the term."""
    with pytest.raises(CheckpointError, match=r"absent\.pth: not a readable checkpoint"):
        find_vgg_features(tmp_path / "absent.pth")


@pytest.mark.parametrize("place", ["given", "cache"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"block1.0.weight": torch.ones(1)}, r"'features\.0\.weight' is missing, expected \(64, 3"),
        ({"features.0.weight": torch.ones(64, 1, 3, 3)}, r"is \(64, 1, 3, 3\), expected \(64, 3"),
        ({"features.0.weight": torch.full((64, 3, 3, 3), math.nan)}, "NaN or infinite"),
        ({"features.0.weight": "text"}, r"'features\.0\.weight' is missing"),
        ([1, 2], "holds a list of 2 .int, int., not a mapping"),
        (b"no checkpoint", "not a readable checkpoint"),
    ],
    ids=["other-network", "other-shape", "nan", "no-tensor", "list", "no-torch-file"],
)
def test_a_file_with_other_weights_is_refused(empty_cache, tmp_path, place, content, message):
    """A truncated download must not end as a run without the term that was asked for."""
    path = tmp_path / "given.pth" if place == "given" else empty_cache
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_vgg_features(path if place == "given" else None)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_hint_names_the_file_that_fits():
    """From the error to the file without a search."""
    with pytest.raises(CheckpointError) as caught:
        VGGFeatures({})
    assert str(caught.value) == (
        "VGG16 weights: not the features of VGG16: 'features.0.weight' is missing, "
        "expected (64, 3, 3, 3)"
    )
    assert caught.value.hint == "expected torchvision's vgg16-397923af.pth"


# --- the generator's loss -------------------------------------------------------------------------


def test_the_seeds_weights_are_these():
    """The seed's rows of the table are trained with them."""
    assert LossWeights(
        image=1.0, adversarial=0.001, features=0.006, total_variation=2e-8
    ) == SEED_WEIGHTS  # fmt: skip
    assert LossWeights() == LossWeights(
        image=1.0, adversarial=0.0, features=0.0, total_variation=0.0
    )


def test_the_generators_loss_is_the_weighted_sum_of_its_terms(vgg_weights):
    """Each term is also given alone, for the CSV: a sum hides which of them went wrong."""
    sr, hr = tensors(*pair(2, (32, 35)), dtype=torch.float32)
    probability = torch.tensor([0.2, 0.7])
    weights = LossWeights(image=3.0, adversarial=5.0, features=7.0, total_variation=11.0)
    features = VGGFeatures(vgg_weights)
    total, terms = GeneratorLoss("mse", weights, features)(
        sr.clone().requires_grad_(), hr, probability
    )
    expected = {
        "image": float((sr - hr).square().mean()),
        "adversarial": (0.8 + 0.3) / 2,
        "features": float(features(sr, hr)),
        "total_variation": float(total_variation(sr)),
    }
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-6)
    assert not any(term.requires_grad for term in terms.values())
    factors = (3.0, 5.0, 7.0, 11.0)
    weighted = sum(f * value for f, value in zip(factors, expected.values(), strict=True))
    assert total.requires_grad
    assert total.item() == pytest.approx(weighted, rel=1e-6)


@pytest.mark.parametrize("name", ["image", "adversarial", "total_variation"])
def test_a_term_without_weight_is_not_computed(name):
    """It would cost time, and put a column into the CSV for something that nobody asked for."""
    nothing = dict.fromkeys(("image", "adversarial", "features", "total_variation"), 0.0)
    sr, hr = tensors(*pair())
    _, terms = GeneratorLoss("l1", LossWeights(**{**nothing, name: 0.5}))(sr, hr, torch.ones(3))
    assert list(terms) == [name]


def test_vgg_without_a_weight_is_dropped(vgg_weights):
    """Fifteen million weights on the GPU for a term that is off."""
    loss = GeneratorLoss("l1", LossWeights(), VGGFeatures(vgg_weights))
    assert list(loss.parameters()) == []


def test_without_vgg_the_other_terms_still_train():
    """The seed's recipe on a machine without the weights: the note has said so, the rest runs."""
    sr, hr = tensors(*pair())
    _, terms = GeneratorLoss("mse", SEED_WEIGHTS, None)(sr, hr, torch.ones(3))
    assert list(terms) == ["image", "adversarial", "total_variation"]


def test_the_adversarial_term_asks_for_the_discriminators_answer():
    """Leaving it out silently would train a generator that is only said to be adversarial."""
    sr, hr = tensors(*pair())
    with pytest.raises(InputError) as caught:
        GeneratorLoss("mse", SEED_WEIGHTS)(sr, hr)
    assert str(caught.value) == "the adversarial term needs the discriminator's answer to SR"
    assert caught.value.hint == "pass fake_probability=discriminator(sr)"


def test_the_adversarial_gradient_makes_sr_more_believable():
    """The sign: a step down the loss is a step up in the discriminator's answer."""
    torch.manual_seed(0)
    discriminator = Discriminator().eval()
    sr, hr = tensors(*pair(2, (17, 16)), dtype=torch.float32)
    sr.requires_grad_()
    probability = discriminator(sr)
    probability.retain_grad()
    weights = LossWeights(image=0.0, adversarial=0.5)
    total, _ = GeneratorLoss("l1", weights)(sr, hr, probability)
    total.backward()
    np.testing.assert_allclose(probability.grad, [-0.25, -0.25])
    assert torch.isfinite(sr.grad).all()
    with torch.no_grad():
        better = discriminator(sr - 0.1 * sr.grad / sr.grad.abs().max())
    assert (better > probability.detach()).all()


def test_no_term_is_narrowed_by_autocast(vgg_weights):
    """VGG's convolutions too: bfloat16 would round away the differences they are asked about."""
    sr, hr = tensors(*pair(1, (32, 32)), dtype=torch.float32)
    probability = torch.tensor([0.9990234375])  # 1 - 2^-10: 1 in bfloat16
    weights = LossWeights(image=1.0, adversarial=1.0, features=1.0, total_variation=1.0)
    loss = GeneratorLoss("psnr", weights, VGGFeatures(vgg_weights))
    total, terms = loss(sr, hr, probability)
    with torch.autocast("cpu", torch.bfloat16):
        same, same_terms = loss(sr, hr, probability)
    assert same.dtype == torch.float32
    assert torch.equal(same, total)
    assert same_terms == terms
    assert float(terms["adversarial"]) == 2.0**-10


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["image", "adversarial", "features", "total_variation"])
def test_a_weight_that_rewards_errors_is_refused(name, value):
    """Minimising minus the error does train, for an hour or so."""
    with pytest.raises(InputError, match=f"loss weight {name} is {value}, expected 0 or more"):
        LossWeights(**{name: value})


@pytest.mark.parametrize("features", [0.0, 1.0])
def test_a_loss_without_terms_is_refused(features):
    """Also when the only term that was asked for could not be had."""
    with pytest.raises(InputError, match="every term of the loss is off"):
        GeneratorLoss("l1", LossWeights(image=0.0, features=features))


def test_an_unknown_image_loss_lists_the_known_ones():
    """From Python, where no recipe has checked it."""
    with pytest.raises(InputError) as caught:
        GeneratorLoss("huber")
    assert str(caught.value) == "loss 'huber' is not one of l1, mse, psnr, charbonnier, l1-ssim"


# --- the discriminator ----------------------------------------------------------------------------


@pytest.fixture
def discriminator() -> Discriminator:
    """Make one whose BatchNorm statistics are not 0 and 1."""
    torch.manual_seed(0)
    made = Discriminator().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.2, 1.0)
    return made


def test_the_discriminator_takes_the_seeds_checkpoint():
    """Keys and shapes of ``netD_epoch_*.pth``, so that a seed run can be gone on with."""
    expected = {}
    for index, (before, width, _) in DISCRIMINATOR_CONVOLUTIONS.items():
        expected[f"net.{index}.weight"] = (width, before, 3, 3)
        expected[f"net.{index}.bias"] = (width,)
        if index:
            for name in ("weight", "bias", "running_mean", "running_var"):
                expected[f"net.{index + 1}.{name}"] = (width,)
            expected[f"net.{index + 1}.num_batches_tracked"] = ()
    expected |= {"net.24.weight": (1024, 512, 1, 1), "net.24.bias": (1024,)}
    expected |= {"net.26.weight": (1, 1024, 1, 1), "net.26.bias": (1,)}
    state = Discriminator().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


@pytest.mark.parametrize(("channels", "count"), [(1, 5_214_273), (3, 5_215_425)])
def test_the_discriminator_has_srgans_number_of_parameters(channels, count):
    """Summed by hand; 5 215 425 is what SRGAN implementations print for RGB."""
    assert sum(one.numel() for one in Discriminator(channels).parameters()) == count


@pytest.mark.parametrize("matrix", [(16, 16), (17, 16), (33, 50)])
def test_the_discriminator_is_its_layers_in_order(discriminator, matrix):
    """Strides, slopes and normalisation leave no trace in the keys: they are checked by value."""
    state = discriminator.state_dict()
    image = torch.from_numpy(np.random.default_rng(0).random((2, 1, *matrix), np.float32))
    features, size = image, matrix
    for index, (_, _, stride) in DISCRIMINATOR_CONVOLUTIONS.items():
        weight, bias = state[f"net.{index}.weight"], state[f"net.{index}.bias"]
        features = nn.functional.conv2d(features, weight, bias, stride=stride, padding=1)
        if index:
            mean, variance, gain, shift = (
                state[f"net.{index + 1}.{name}"][:, None, None]
                for name in ("running_mean", "running_var", "weight", "bias")
            )
            features = (features - mean) / torch.sqrt(variance + 1e-5) * gain + shift
        features = torch.where(features > 0.0, features, 0.2 * features)
        size = tuple(-(-length // stride) for length in size)
        assert features.shape[-2:] == size
    pooled = features.mean(dim=(2, 3))
    hidden = pooled @ state["net.24.weight"][:, :, 0, 0].T + state["net.24.bias"]
    hidden = torch.where(hidden > 0.0, hidden, 0.2 * hidden)
    score = (hidden @ state["net.26.weight"][:, :, 0, 0].T + state["net.26.bias"])[:, 0]
    with torch.no_grad():
        found = discriminator(image)
    assert found.shape == (2,)
    torch.testing.assert_close(found, 1.0 / (1.0 + torch.exp(-score)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gain", [0.0, 1.0, 1e4])
def test_the_discriminator_answers_with_a_probability(discriminator, gain):
    """Whatever it is shown: air, an image, or one whose intensity scale was forgotten."""
    image = gain * torch.from_numpy(np.random.default_rng(0).random((3, 1, 19, 24), np.float32))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = discriminator(image)
    assert found.shape == (3,)
    assert found.dtype == torch.float32
    assert ((found >= 0.0) & (found <= 1.0)).all()


@pytest.mark.parametrize("shape", [(1, 1, 15, 32), (1, 1, 32, 15), (1, 32, 32)])
def test_the_discriminator_refuses_what_is_no_slice(discriminator, shape):
    """With the shape that was found."""
    with pytest.raises(ShapeError) as caught:
        discriminator(torch.zeros(shape))
    assert str(caught.value) == (
        "the discriminator takes (n, channels, y, x) of at least 16 samples per axis, "
        f"found shape {shape}"
    )


@pytest.mark.parametrize(
    ("real", "fake", "expected"),
    [([1.0, 1.0], [0.0, 0.0], 0.0), ([0.0], [1.0], 2.0), ([0.9, 0.5], [0.3, 0.2, 0.1], 0.5)],
    ids=["always-right", "always-wrong", "between"],
)
def test_the_discriminators_loss_is_what_it_got_wrong(real, fake, expected):
    """From 0 to 2; in fp32 even if the answers are not."""
    for dtype in (torch.float64, torch.bfloat16):
        given = [torch.tensor(values, dtype=dtype) for values in (real, fake)]
        loss = discriminator_loss(*given)
        right, wrong = (answers.double().mean() for answers in given)
        assert float(loss) == pytest.approx(float(1.0 - right + wrong), rel=1e-6)
        assert float(loss) == pytest.approx(expected, abs=4e-3)  # the answers' own rounding
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_the_discriminators_loss_pulls_both_answers_apart():
    """Up on measured slices, down on predicted ones, by the mean of each batch."""
    real, fake = torch.tensor([0.5, 0.6], requires_grad=True), torch.tensor([0.5] * 4)
    fake.requires_grad_()
    discriminator_loss(real, fake).backward()
    np.testing.assert_allclose(real.grad, [-0.5, -0.5])
    np.testing.assert_allclose(fake.grad, [0.25] * 4)


def test_the_discriminator_learns_to_tell_standing_stripes_from_lying_ones():
    """A few steps are enough for slices that differ in nothing but their direction."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    stripes = np.tile(np.sin(2.0 * np.arange(16)), (16, 1))

    def batch(pattern: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pattern * random.uniform(0.5, 1.0, (4, 1, 1, 1))).float()

    def answers() -> tuple[torch.Tensor, torch.Tensor]:
        return discriminator(batch(stripes)), discriminator(batch(stripes.T))

    discriminator = Discriminator()
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    first = discriminator_loss(*answers()).item()
    for _ in range(15):
        optimiser.zero_grad()
        discriminator_loss(*answers()).backward()
        optimiser.step()
    with torch.no_grad():  # slices that it never saw, normalised as in training
        standing, lying = answers()
    assert first == pytest.approx(1.0, abs=0.05)  # a guess
    assert float(discriminator_loss(standing, lying)) < 0.6
    assert standing.min() > lying.max()


def test_ssim_is_the_metric_of_that_name():
    """What is trained on is what is reported, sample covariance and window included."""
    rng = np.random.default_rng(5)
    hr = rng.random((3, 1, 20, 17))
    sr = hr + 0.1 * rng.standard_normal(hr.shape)
    ours = ssim(torch.from_numpy(sr), torch.from_numpy(hr))
    assert float(ours) == pytest.approx(metrics.ssim(sr[:, 0], hr[:, 0], 1.0), abs=1e-12)
    both = l1_ssim(torch.from_numpy(sr), torch.from_numpy(hr))
    assert float(both) == pytest.approx(np.abs(sr - hr).mean() + 0.1 * (1.0 - float(ours)))


def test_ssim_has_the_gradient_of_its_value():
    """Finite differences in float64."""
    hr = torch.rand(1, 1, 8, 9, dtype=torch.float64)
    sr = (hr + 0.1 * torch.randn_like(hr)).requires_grad_()
    assert torch.autograd.gradcheck(lambda image: ssim(image, hr), sr)


def test_ssim_refuses_slices_smaller_than_its_window():
    """There would be no window to look through."""
    small = torch.zeros(1, 1, 6, 20)
    with pytest.raises(ShapeError, match="at least 7 samples"):
        ssim(small, small)
