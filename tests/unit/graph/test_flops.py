"""GFLOP figures are counted in the graph, and the count is right."""

from __future__ import annotations

import pytest

from kspacesr_rt.graph.flops import count_flops


@pytest.mark.parametrize("cascades", [1, 2])
def test_a_residual_generators_convolutions_and_transforms_are_counted(
    make_generator, make_model, cascades
):
    """Two 3x3 convolutions a block on the LR grid, a head and a tail a cascade; transforms too."""
    width, blocks, rows, columns, s = 8, 3, 20, 33, 2
    generator, spec = make_generator(
        "dc-residual", s, width=width, blocks=blocks, cascades=cascades, bias=False
    )
    counted = count_flops(make_model(generator, spec), (rows, columns))
    weights = 2 * blocks * 9 * width**2 + cascades * 2 * 9 * width * s * s
    assert counted.cnn == 2.0 * weights * rows * columns
    assert counted.uncounted == ()

    def product(m: int, n: int, k: int) -> float:
        return 2.0 * m * n * k

    # A transform is two matrix products, between the samples of an image and its coefficients: one
    # for each LR sample, and on an even axis three more for the line without a mirror image.
    v, u = rows + 3, columns

    def transform(y: int, x: int) -> float:
        """Of a (y, x) image, there or back."""
        return product(v, x, y) + product(v, u, x)

    fine = (s * rows, s * columns)
    expected = transform(rows, columns) + (1 + 2 * cascades) * transform(*fine)
    assert counted.fft == expected


def test_complex_transforms_cost_what_they_did(make_generator, make_model):
    """Real times complex is two real products, complex times complex four: the seed's k-space."""
    y, x = 20, 33
    generator, spec = make_generator("seed-kspace", 2, width=8)
    counted = count_flops(make_model(generator, spec), (y, x))
    forward = 2.0 * ((2 * y) * x * y + y * (2 * x) * (2 * x))
    ends = 2 if spec.output == "magnitude" else 1
    v, u = 2 * y, 2 * x
    backward = 2.0 * ((2 * v) * u * (2 * v) + v * (ends * u) * (2 * u))
    assert counted.fft == forward + backward


def test_a_dft_graph_says_what_it_does_not_count(make_generator, make_model):
    """A count that leaves something out silently would flatter."""
    generator, spec = make_generator("dc-residual", 2)
    assert count_flops(make_model(generator, spec, "dft"), (16, 16)).uncounted == ("DFT",)


@pytest.mark.parametrize(("upscale", "lr", "expected"), [(2, 160, 31.0), (4, 80, 16.9)])
def test_the_seed_networks_figures_are_its_own(make_generator, make_model, upscale, lr, expected):
    """The quarter that a fast model may cost is a quarter of this."""
    generator, spec = make_generator("seed-kspace", upscale, width=64, matrix=(lr, lr))
    counted = count_flops(make_model(generator, spec), (lr, lr))
    assert counted.cnn / 1e9 == pytest.approx(expected, abs=0.06)
