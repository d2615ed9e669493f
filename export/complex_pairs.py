"""Complex numbers as two real tensors: the arithmetic that a graph of real operators needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A complex tensor: real and imaginary part, of one shape."""

    real: Tensor
    imag: Tensor | None = None
    """None where it is zero throughout, as of a real tensor that became complex."""

    @property
    def shape(self) -> Any:
        """Of the complex tensor."""
        return self.real.shape

    def imaginary(self) -> Tensor:
        """Return the imaginary part, zeros where there is none."""
        return torch.zeros_like(self.real) if self.imag is None else self.imag

    def each(self, change: Callable[[Tensor], Tensor]) -> Pair:
        """Change both parts alike: any operation that is linear over the reals."""
        return Pair(change(self.real), None if self.imag is None else change(self.imag))


Value = Any
"""A `Pair`, a real tensor, or a number, complex or not."""

REAL_OF = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}
"""Complex type to the type of its parts."""


def as_pair(value: Value) -> Pair:
    """Return a tensor as a pair."""
    return value if isinstance(value, Pair) else Pair(value)


def split(value: Value) -> tuple[Any, Any]:
    """Return real and imaginary part of whatever stands in a sum or product; None is zero."""
    if isinstance(value, Pair):
        return value.real, value.imag
    if isinstance(value, complex):
        return value.real, value.imag or None
    return value, None


def _plus(left: Any, right: Any) -> Any:
    if left is None:
        return right
    return left if right is None else left + right


def _negated(value: Any) -> Any:
    return None if value is None else -value


def _product(left: Any, right: Any) -> Any:
    return None if left is None or right is None else left * right


def _made(real: Any, imag: Any) -> Pair:
    """Return a pair whose parts have one shape: numbers are spread, missing parts too."""
    tensors = [one for one in (real, imag) if isinstance(one, Tensor)]
    if real is None:
        real = 0.0
    # torch's stubs leave this function untyped.
    shape: Any = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
        *(one.shape for one in tensors)
    )

    def spread(part: Any) -> Tensor:
        if not isinstance(part, Tensor):
            return tensors[0].new_full(shape, float(part))
        return part if part.dim() == len(shape) and part.shape == shape else part.expand(shape)

    return Pair(spread(real), None if imag is None else spread(imag))


def joined(real: Tensor, imag: Tensor) -> Pair:
    """Return the pair of two real tensors, spread to one shape."""
    return _made(real, imag)


def add(left: Value, right: Value, alpha: Any = 1) -> Pair:
    """Return ``left + alpha * right``."""
    a, b = split(left)
    c, d = split(right)
    if alpha != 1:
        c, d = _product(c, alpha), _product(d, alpha)
    return _made(_plus(a, c), _plus(b, d))


def subtract(left: Value, right: Value, alpha: Any = 1) -> Pair:
    """Return ``left - alpha * right``."""
    return add(left, negative(right), alpha)


def negative(value: Value) -> Any:
    """Return ``-value``."""
    return value.each(torch.neg) if isinstance(value, Pair) else -value


def conjugate(value: Value) -> Any:
    """Return the complex conjugate."""
    return Pair(value.real, _negated(value.imag)) if isinstance(value, Pair) else value


def multiply(left: Value, right: Value) -> Pair:
    """Return the product, sample by sample."""
    return bilinear(lambda a, b: a * b, left, right)


def bilinear(product: Callable[[Any, Any], Any], left: Value, right: Value) -> Pair:
    """Return any product that is linear in both factors: of samples, of matrices, a convolution."""
    a, b = split(left)
    c, d = split(right)

    def of(first: Any, second: Any) -> Any:
        return None if first is None or second is None else product(first, second)

    return _made(_plus(of(a, c), _negated(of(b, d))), _plus(of(a, d), of(b, c)))


def squared_magnitude(value: Pair) -> Tensor:
    """Return ``|value|**2``."""
    squared = value.real * value.real
    return squared if value.imag is None else squared + value.imag * value.imag


def magnitude(value: Value) -> Tensor:
    """Return ``|value|``."""
    if not isinstance(value, Pair):
        return torch.abs(value)
    return torch.abs(value.real) if value.imag is None else torch.sqrt(squared_magnitude(value))


def angle(value: Pair) -> Tensor:
    """Return the phase in radians, from -pi to pi."""
    return torch.atan2(value.imaginary(), value.real)


def polar(modulus: Tensor, phase: Tensor) -> Pair:
    """Return the complex number of a modulus and a phase."""
    return Pair(modulus * torch.cos(phase), modulus * torch.sin(phase))


def reciprocal(value: Value) -> Any:
    """Return ``1 / value``."""
    if isinstance(value, complex):
        return 1 / value
    if not isinstance(value, Pair):
        return torch.reciprocal(value) if isinstance(value, Tensor) else 1 / value
    if value.imag is None:
        return Pair(torch.reciprocal(value.real))
    squared = squared_magnitude(value)
    return Pair(value.real / squared, -value.imag / squared)


def divide(left: Value, right: Value) -> Pair:
    """Return ``left / right``."""
    if isinstance(left, Pair) and not isinstance(right, Pair | complex):
        return _made(left.real / right, None if left.imag is None else left.imag / right)
    c, d = split(right)
    if d is None:
        a, b = split(left)
        return _made(a / c, None if b is None else b / c)
    if isinstance(right, complex):
        return multiply(left, 1 / right)
    product = multiply(left, conjugate(right))
    squared = squared_magnitude(right)
    return product.each(lambda part: part / squared)


def exponential(value: Pair) -> Pair:
    """Return ``e ** value``."""
    if value.imag is None:
        return Pair(torch.exp(value.real))
    return polar(torch.exp(value.real), value.imag)


def logarithm(value: Pair) -> Pair:
    """Return the principal logarithm."""
    return Pair(torch.log(magnitude(value)), angle(value))


def square_root(value: Pair) -> Pair:
    """Return the principal square root."""
    return polar(torch.sqrt(magnitude(value)), angle(value) / 2)


def sign(value: Pair) -> Pair:
    """Return ``value / |value|``, zero where it is zero."""
    modulus = magnitude(value)
    safe = torch.where(modulus > 0, modulus, torch.ones_like(modulus))
    return value.each(lambda part: part / safe)


def power(value: Value, exponent: Value) -> Pair:
    """Return a power; whole ones by products, any other by its logarithm."""
    if isinstance(exponent, int | float) and float(exponent).is_integer() and abs(exponent) <= 16:
        result: Value = None
        for _ in range(abs(int(exponent))):
            result = value if result is None else multiply(result, value)
        if result is None:
            return Pair(torch.ones_like(as_pair(value).real))
        return as_pair(reciprocal(result) if exponent < 0 else result)
    if isinstance(value, int | float):
        value = Pair(torch.as_tensor(float(value)))
    return exponential(multiply(logarithm(as_pair(value)), exponent))
