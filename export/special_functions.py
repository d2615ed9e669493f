"""Special functions that ONNX has no operators for, to the last digits of fp32."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from kspacesr_rt.export.real_operators import window_line

_I0_NEAR = (1.0, 3.5156229, 3.0899424, 1.2067492, 0.2659732, 0.0360768, 0.0045813)
_I0_FAR = (
    *(0.39894228, 0.01328592, 0.00225319, -0.00157565, 0.00916281),
    *(-0.02057706, 0.02635537, -0.01647633, 0.00392377),
)
_I1_NEAR = (0.5, 0.87890594, 0.51498869, 0.15084934, 0.02658733, 0.00301532, 0.00032411)
_I1_FAR = (
    *(0.39894228, -0.03988024, -0.00362018, 0.00163801, -0.01031555),
    *(0.02282967, -0.02895312, 0.01787654, -0.00420059),
)
_BESSEL_LIMIT = 3.75
"""Abramowitz and Stegun, Handbook of Mathematical Functions, 9.8.1 to 9.8.4: errors below 2.2e-7 of
the value; the near ones in (x / 3.75)**2, the far ones in 3.75 / x."""


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Return ``c[0] + c[1] x + c[2] x**2 + ...``."""
    result = torch.full_like(x, coefficients[-1])
    for one in reversed(coefficients[:-1]):
        result = result * x + one
    return result


def _bessel(
    near: Sequence[float], far: Sequence[float], *, odd: bool, scaled: bool
) -> Callable[[Tensor], Tensor]:
    """Return a modified Bessel function of the first kind, ``exp(-|x|)`` times it if `scaled`."""

    def compute(value: Tensor) -> Tensor:
        modulus = value.abs()
        close = torch.clamp(modulus, max=_BESSEL_LIMIT)
        inner = _polynomial(near, (close / _BESSEL_LIMIT) ** 2)
        inner = inner * close if odd else inner
        distant = torch.clamp(modulus, min=_BESSEL_LIMIT)
        outer = _polynomial(far, _BESSEL_LIMIT / distant) / torch.sqrt(distant)
        if scaled:
            inner = inner * torch.exp(-close)
        else:
            outer = outer * torch.exp(distant)
        made = torch.where(modulus < _BESSEL_LIMIT, inner, outer)
        return torch.where(value < 0, -made, made) if odd else made

    return compute


bessel_i0 = _bessel(_I0_NEAR, _I0_FAR, odd=False, scaled=False)
bessel_i0e = _bessel(_I0_NEAR, _I0_FAR, odd=False, scaled=True)
bessel_i1 = _bessel(_I1_NEAR, _I1_FAR, odd=True, scaled=False)
bessel_i1e = _bessel(_I1_NEAR, _I1_FAR, odd=True, scaled=True)

_CENTRE = (
    *(1.50140941, 0.246640727, -0.00417768164, -0.00125372503, 0.00021858087),
    *(-4.39150654e-06, -3.5233877e-06, 3.43273939e-07, 2.81022636e-08),
)
_TAIL = (
    *(2.83297682, 1.00167406, 0.00943887047, -0.0076224613, 0.00573950773),
    *(-0.00367342844, 0.00134934322, 0.000100950558, -0.000200214257),
)
_TAIL_BEGINS = 5.0
"""M. Giles, Approximating the erfinv function, GPU Computing Gems, 2011, single precision: of
``-log(1 - x**2)`` from 2.5, and of its square root from 3; errors below 4e-7 of the value."""


def inverse_error_function(value: Tensor) -> Tensor:
    """As `torch.erfinv`."""
    inside = torch.clamp(value, -1.0 + 2.0**-24, 1.0 - 2.0**-24)
    logarithm = -torch.log((1.0 - inside) * (1.0 + inside))
    centre = _polynomial(_CENTRE, torch.clamp(logarithm, max=_TAIL_BEGINS) - 2.5)
    tail = _polynomial(_TAIL, torch.sqrt(torch.clamp(logarithm, min=_TAIL_BEGINS)) - 3.0)
    found = torch.where(logarithm < _TAIL_BEGINS, centre, tail) * inside
    ends = torch.where(value.abs() > 1.0, math.nan, torch.sign(value) * math.inf)
    return torch.where(value.abs() < 1.0, found, ends)


def inverse_normal(value: Tensor) -> Tensor:
    """As `torch.special.ndtri`: where the normal distribution reaches a share."""
    return math.sqrt(2.0) * inverse_error_function(2.0 * value - 1.0)


def kaiser_window(
    window_length: Any,
    periodic: bool = True,
    beta: float = 12.0,
    *,
    dtype: Any = None,
    device: Any = None,
    **_: Any,
) -> Tensor:
    """As `torch.kaiser_window`, of a length that may follow from the matrix."""
    place = 2.0 * window_line(window_length, periodic, dtype, device) - 1.0
    root = torch.sqrt(torch.clamp(1.0 - place * place, min=0.0)) * beta
    # Scaled by exp(-beta) above and below, which keeps large betas in range.
    return bessel_i0e(root) * torch.exp(root - beta) / bessel_i0e(torch.full((), float(beta)))


def randomised_relu(
    value: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """As `torch.nn.functional.rrelu` in evaluation mode: the mean slope."""
    del inplace
    if training:
        raise NotImplementedError("rrelu with training=True, which draws numbers")
    return torch.nn.functional.leaky_relu(value, (lower + upper) / 2.0)


_STEPS_UP = 10
"""Arguments are raised by so much before the series in their reciprocals is taken."""
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30)
"""B(2), B(4), B(6), B(8)."""


def _summed(terms: Iterable[Tensor]) -> Tensor:
    return reduce(operator.add, terms)


def digamma(value: Tensor) -> Tensor:
    """As `torch.digamma`, of values above -5; Abramowitz and Stegun, 6.3.18."""
    above = value + float(_STEPS_UP)
    made = torch.log(above) - 0.5 / above
    for at, number in enumerate(_BERNOULLI, start=1):
        made = made - number / (2 * at) * above ** (-2 * at)
    return made - _summed(1.0 / (value + float(step)) for step in range(_STEPS_UP))


def polygamma(order: int, value: Tensor) -> Tensor:
    """As `torch.polygamma`, of values above -5; Abramowitz and Stegun, 6.4.11."""
    if order == 0:
        return digamma(value)
    above, power = value + float(_STEPS_UP), order + 1
    made = above**-order / order + 0.5 * above**-power
    for at, number in enumerate(_BERNOULLI, start=1):
        rising = math.factorial(order + 2 * at - 1) / (
            math.factorial(order) * math.factorial(2 * at)
        )
        made = made + number * rising * above ** -(order + 2 * at)
    made = made + _summed((value + float(step)) ** -power for step in range(_STEPS_UP))
    return made * (math.factorial(order) * (-1.0) ** power)


_TORCH: dict[str, Callable[..., Any]] = {
    "i0": bessel_i0,
    "erfinv": inverse_error_function,
    "digamma": digamma,
}
_SPECIAL: dict[str, Callable[..., Any]] = {
    "i0": bessel_i0,
    "i0e": bessel_i0e,
    "i1": bessel_i1,
    "i1e": bessel_i1e,
    "modified_bessel_i0": bessel_i0,
    "modified_bessel_i1": bessel_i1,
    "erfinv": inverse_error_function,
    "ndtri": inverse_normal,
    "digamma": digamma,
    "psi": digamma,
    "polygamma": polygamma,
}
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **{getattr(torch.special, name): function for name, function in _SPECIAL.items()},
    **{
        getattr(home, name): function
        for name, function in _TORCH.items()
        for home in (torch, torch.Tensor)
    },
    torch.kaiser_window: kaiser_window,
    torch.polygamma: polygamma,
    torch.Tensor.polygamma: lambda value, order: polygamma(order, value),
    torch.rrelu: randomised_relu,
    torch.nn.functional.rrelu: randomised_relu,
}
