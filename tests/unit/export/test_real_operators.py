"""Real operators that are written with others compute what PyTorch's own compute."""

import pytest
import torch
from torch.nn import functional

from kspacesr_rt.export.real_operators import OF_OPEN_LENGTH, OPERATORS

SIZES = [
    ((37, 45), (74, 90), None),
    ((64, 48), (32, 24), None),
    ((40, 41), (61, 17), None),
    ((37, 45), None, 2.0),
    ((37, 45), None, 0.5),
    ((37, 45), None, 0.7),
]
"""Matrix before and after, or the factor between them."""


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("matrix", "size", "factor"), SIZES)
def test_resizing_with_antialiasing(mode, matrix, size, factor):
    """Runtimes disagree on it: as products with matrices it is the same on all of them."""
    image = torch.rand(2, 3, *matrix, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(
        image, size=size, scale_factor=factor, mode=mode, antialias=True
    )
    operator = OPERATORS[f"aten::_upsample_{mode}2d_aa"]
    found = operator(image, size, False, None if factor is None else [factor, factor])
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 3e-6


def test_resizing_that_is_not_written_so_says_so():
    with pytest.raises(NotImplementedError, match="align_corners"):
        OPERATORS["aten::_upsample_bilinear2d_aa"](torch.rand(1, 1, 8, 8), (16, 16), True, None)


@pytest.mark.parametrize("pad", [(1, 2), (1, 2, 3, 0), (0, 0, 4, 4)])
def test_padding_around_the_edges(pad):
    image = torch.rand(2, 3, 9, 12)
    expected = functional.pad(image, pad, mode="circular") if len(pad) == 4 else None
    if expected is None:  # torch pads two axes of an image that way, or none
        expected = torch.cat([image[..., -1:], image, image[..., :2]], -1)
    assert torch.equal(OPERATORS["aten::pad"](image, pad, "circular"), expected)


def test_padding_with_a_number():
    image = torch.rand(1, 1, 4, 5)
    assert torch.equal(
        OPERATORS["aten::pad"](image, [1, 0], "constant", 2.0),
        functional.pad(image, (1, 0), value=2.0),
    )


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("length", [1, 2, 32, 33])
@pytest.mark.parametrize("window", [torch.hann_window, torch.hamming_window, torch.blackman_window])
def test_windows_of_a_length(window, length, periodic):
    found = OF_OPEN_LENGTH[window](length, periodic)
    torch.testing.assert_close(found, window(length, periodic=periodic), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [(18, 22), (1, 7), (37, 45), (50, 60), 3])
def test_averages_over_areas(size):
    """What halves an image by its areas: ONNX has pooling with one kernel for all places."""
    image = torch.rand(2, 3, 37, 45)
    expected = functional.adaptive_avg_pool2d(image, size)
    torch.testing.assert_close(OPERATORS["aten::adaptive_avg_pool2d"](image, size), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.rand(2, 1, 5, 7)},
        {"attn_mask": torch.rand(5, 7) > 0.3},
        {"enable_gqa": True},
    ],
    ids=["plain", "scale", "causal", "added mask", "mask", "shared keys"],
)
def test_attention(settings):
    generator = torch.Generator().manual_seed(0)
    heads = 2 if "enable_gqa" in settings else 4
    query = torch.rand(2, 4, 5, 8, generator=generator)
    key, value = (torch.rand(2, heads, 7, 8, generator=generator) for _ in range(2))
    expected = functional.scaled_dot_product_attention(query, key, value, **settings)
    mask = {"mask": settings.pop("attn_mask")} if "attn_mask" in settings else {}
    found = OPERATORS["aten::scaled_dot_product_attention"](query, key, value, **mask, **settings)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("axes", [(2, 3, 4, 5), (2, 3), (4, 5)], ids=["all", "first", "last"])
def test_a_number_where_a_mask_is_true(axes, accumulate):
    """As ``image[image > 1] = 1``: torch's exporter would look for the places first."""
    value, mask = torch.rand(2, 3, 4, 5), torch.rand(axes) > 0.5
    indices = [None, None, mask] if axes == (4, 5) else [mask]
    expected = torch.ops.aten.index_put(value, indices, torch.tensor(7.0), accumulate)
    found = OPERATORS["aten::index_put"](value, indices, torch.tensor(7.0), accumulate)
    assert torch.equal(found, expected)


def test_other_places_are_put_as_torch_does():
    value, indices = torch.rand(4, 5), [torch.tensor([0, 2])]
    expected = torch.index_put(value, indices, torch.zeros(2, 5))
    assert torch.equal(OPERATORS["aten::index_put"](value, indices, torch.zeros(2, 5)), expected)
