"""ATen operators on complex tensors, as operations on pairs of real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kspacesr_rt.export import complex_pairs as pairs
from kspacesr_rt.export.complex_pairs import REAL_OF, Pair, as_pair
from kspacesr_rt.export.real_operators import OPERATORS as REAL_OPERATORS

Handler = Callable[..., Any]


MAKERS = ("aten::complex", "aten::polar")
"""Operators that make complex tensors of real ones."""


def concerns(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Say whether a call takes or makes complex tensors."""
    return name in MAKERS or any(_complex(one) for one in (*args, *kwargs.values()))


def _complex(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_complex(one) for one in value)
    if isinstance(value, torch.dtype):
        return value in REAL_OF
    return isinstance(value, Pair | complex)


def handler(name: str) -> Handler | None:
    """Return what computes an operator on pairs, None where there is nothing."""
    if name in _HANDLERS:
        return _HANDLERS[name]
    return _each_part if name in _LINEAR else None


_ADVICE = {
    "aten::linalg_svd": "write the decomposition with real matrices, or leave it out",
    "aten::relu": "write it on both parts: torch.complex(torch.relu(x.real), torch.relu(x.imag))",
    "aten::batch_norm": "normalise real and imaginary part as channels: torch.view_as_real(x)",
    "aten::instance_norm": "normalise real and imaginary part as channels: torch.view_as_real(x)",
    "aten::native_group_norm": "normalise both parts as channels: torch.view_as_real(x)",
}


def advice(name: str) -> str:
    """Return what to write instead of an operator on complex tensors."""
    return _ADVICE.get(
        name, "write it with x.real and x.imag, or with torch.view_as_real(x) as channels"
    )


def _part(value: Any, index: int) -> Any:
    if isinstance(value, Pair):
        return value.imaginary() if index else value.real
    if isinstance(value, complex):
        return value.imag if index else value.real
    if isinstance(value, list | tuple):
        made = [_part(one, index) for one in value]
        if index and any(isinstance(one, Pair) for one in value):
            made = [
                torch.zeros_like(one) if isinstance(one, Tensor) and one is old else one
                for one, old in zip(made, value, strict=True)
            ]
        return type(value)(made)
    if isinstance(value, torch.dtype):
        return REAL_OF.get(value, value)
    return value


def _each_part(target: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply an operator that is linear over the reals to both parts."""
    name = target._schema.name
    call: Any = REAL_OPERATORS.get(name, target)
    found: list[Any] = []
    for index in (0, 1):
        first = isinstance(args[0], Pair) and args[0].imag is None
        alone = not any(_complex(one) for one in (*args[1:], *kwargs.values()))
        if index and first and alone:
            found.append(None)
            continue
        given = [_part(one, index) for one in args]
        named = {key: _part(one, index) for key, one in kwargs.items()}
        found.append(call(*given, **named))
    real, imag = found
    if isinstance(real, list | tuple):
        rest = imag if imag is not None else [None] * len(real)
        return [Pair(*both) for both in zip(real, rest, strict=True)]
    return Pair(real, imag)


def _pad(target: Any, value: Any, pad: Any, *rest: Any, **kwargs: Any) -> Pair:
    """Pad both parts; a constant is complex too."""
    name = target._schema.name
    if name == "aten::pad":
        mode = rest[0] if rest else kwargs.get("mode", "constant")
        filler = rest[1] if len(rest) > 1 else kwargs.get("value")
    else:
        mode, filler = "constant", rest[0] if rest else kwargs.get("value", 0)
    pair = as_pair(value)
    if mode != "constant":
        return pair.each(lambda part: torch.nn.functional.pad(part, list(pad), mode=mode))
    filler = complex(filler or 0)
    if pair.imag is None and filler.imag == 0:
        return pair.each(lambda part: torch.nn.functional.pad(part, list(pad), value=filler.real))
    parts = zip((pair.real, pair.imaginary()), (filler.real, filler.imag), strict=True)
    return Pair(*(torch.nn.functional.pad(part, list(pad), value=fill) for part, fill in parts))


def _create(target: Any, *args: Any, **kwargs: Any) -> Any:
    """Make a constant tensor, complex if its type or value is."""
    source = args[0] if args and isinstance(args[0], Pair) else None
    wanted = kwargs.get("dtype")
    if source is not None and wanted is not None and wanted not in REAL_OF:
        return target(source.real, *args[1:], **kwargs)
    kwargs = dict(kwargs)
    if wanted is not None:
        kwargs["dtype"] = REAL_OF.get(wanted, wanted)
    given = [one.real if isinstance(one, Pair) else one for one in args]
    at = next((i for i, one in enumerate(given) if isinstance(one, complex)), None)
    if at is None:
        return Pair(target(*given, **kwargs))
    value = given[at]
    real, imag = ([*given[:at], part, *given[at + 1 :]] for part in (value.real, value.imag))
    return Pair(target(*real, **kwargs), target(*imag, **kwargs))


def _to(target: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """Change type: to real, the imaginary part is dropped, as torch does with a warning."""
    wanted = kwargs.get("dtype")
    for one in args:
        if isinstance(one, torch.dtype):
            wanted = one
        elif isinstance(one, Pair):
            wanted = torch.complex64 if one.real.dtype == torch.float32 else torch.complex128
        elif isinstance(one, Tensor):
            wanted = one.dtype
    pair = as_pair(value)
    if wanted is None:
        return value
    if wanted in REAL_OF:
        return pair.each(lambda part: part.to(REAL_OF[wanted]))
    return pair.real.to(wanted)


def _where(target: Any, condition: Any, left: Any, right: Any) -> Pair:
    parts = [
        tuple(0.0 if one is None else one for one in pairs.split(value)) for value in (left, right)
    ]
    return Pair(*(torch.where(condition, a, b) for a, b in zip(*parts, strict=True)))


def _masked_fill(target: Any, value: Any, mask: Any, filler: Any) -> Pair:
    return _where(target, torch.logical_not(mask), value, filler)


def _einsum(target: Any, equation: str, operands: Any, *, path: Any = None) -> Pair:
    result = operands[0]
    if len(operands) == 1:
        return as_pair(result).each(lambda part: torch.einsum(equation, part))
    if len(operands) > 2:
        raise NotImplementedError("einsum of more than two complex tensors: write it in two steps")
    return pairs.bilinear(
        lambda a, b: torch.einsum(equation, a, b), *(as_pair(one) for one in operands)
    )


def _convolution(
    target: Any, value: Any, weight: Any, bias: Any = None, *rest: Any, **kw: Any
) -> Pair:
    made = pairs.bilinear(
        lambda a, b: target(a, b, None, *rest, **kw), as_pair(value), as_pair(weight)
    )
    if bias is None:
        return made
    spread = [1, -1, *[1] * (made.real.dim() - 2)]
    return pairs.add(made, as_pair(bias).each(lambda part: part.reshape(spread)))


def _linear(target: Any, value: Any, weight: Any, bias: Any = None) -> Pair:
    product = pairs.bilinear(
        lambda a, b: torch.matmul(a, b.transpose(0, 1)), as_pair(value), as_pair(weight)
    )
    return product if bias is None else pairs.add(product, bias)


def _addmm(
    target: Any, added: Any, left: Any, right: Any, *, beta: Any = 1, alpha: Any = 1
) -> Pair:
    product = pairs.bilinear(torch.matmul, as_pair(left), as_pair(right))
    return pairs.add(pairs.multiply(as_pair(added), beta), product, alpha)


def _bilinear(target: Any, left: Any, right: Any) -> Pair:
    return pairs.bilinear(lambda a, b: target(a, b), as_pair(left), as_pair(right))


def _bilinear_with(target: Any, left: Any, right: Any, *rest: Any, **kwargs: Any) -> Pair:
    return pairs.bilinear(lambda a, b: target(a, b, *rest, **kwargs), as_pair(left), as_pair(right))


def _fill(target: Any, value: Any, filler: Any) -> Pair:
    """Return one number everywhere, as assigning it to a slice does."""
    shape = as_pair(value).real
    number = filler if isinstance(filler, Pair | Tensor) else complex(filler)
    parts = [_everywhere(shape, part) for part in pairs.split(number)]
    return Pair(shape * 0 if parts[0] is None else parts[0], parts[1])


def _everywhere(like: Tensor, number: Any) -> Any:
    if isinstance(number, Tensor):
        return number.to(like.dtype).expand(like.shape)
    return None if number is None else torch.full(like.shape, number, dtype=like.dtype)


def _matrix_norm(target: Any, value: Any, order: Any = None, *rest: Any, **kwargs: Any) -> Tensor:
    """Return the norms that are the root of all squares; others need singular values."""
    if order not in (None, "fro"):
        raise NotImplementedError(f"a norm of order {order} of a complex matrix")
    return _norm(target, value, order, *rest, **kwargs)


def _norm(target: Any, value: Any, *args: Any, **kwargs: Any) -> Tensor:
    result: Tensor = target(pairs.magnitude(value), *args, **_real_named(kwargs))
    return result


def _real_named(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {
        key: REAL_OF.get(one, one) if isinstance(one, torch.dtype) else one
        for key, one in kwargs.items()
    }


def _variance(target: Any, value: Any, *args: Any, **kwargs: Any) -> Tensor:
    pair = as_pair(value)
    made: Tensor = target(pair.real, *args, **kwargs)
    return made if pair.imag is None else made + target(pair.imag, *args, **kwargs)


def _deviation(target: Any, value: Any, *args: Any, **kwargs: Any) -> Tensor:
    pair = as_pair(value)
    parts = [target(part, *args, **kwargs) for part in (pair.real, pair.imaginary())]
    return torch.sqrt(parts[0] ** 2 + parts[1] ** 2)


def _product_over(target: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError("torch.prod of a complex tensor")


def _equal(target: Any, left: Any, right: Any) -> Tensor:
    (a, b), (c, d) = pairs.split(left), pairs.split(right)
    same: Tensor = a == c
    if b is None and d is None:
        return same
    rest: Any = (0.0 if b is None else b) == (0.0 if d is None else d)
    return torch.logical_and(same, rest)


def _not_equal(target: Any, left: Any, right: Any) -> Tensor:
    return torch.logical_not(_equal(target, left, right))


def _unary(compute: Callable[[Pair], Any]) -> Handler:
    return lambda target, value, *args, **kwargs: compute(as_pair(value))


def _binary(compute: Callable[..., Pair]) -> Handler:
    return lambda target, left, right, **kwargs: compute(left, right, **kwargs)


def _divide(target: Any, left: Any, right: Any, **kwargs: Any) -> Pair:
    if kwargs.get("rounding_mode"):
        raise NotImplementedError("division of complex numbers with rounding")
    return pairs.divide(left, right)


def _rsub(target: Any, left: Any, right: Any, alpha: Any = 1) -> Pair:
    return pairs.subtract(right, left, alpha)


def _size(target: Any, value: Any, axis: int) -> Any:
    return value.shape[axis]


def _tanh(value: Pair) -> Pair:
    grown = pairs.exponential(pairs.multiply(value, 2.0))
    return pairs.divide(pairs.subtract(grown, 1.0), pairs.add(grown, 1.0))


def _sigmoid(value: Pair) -> Pair:
    return as_pair(pairs.reciprocal(pairs.add(pairs.exponential(value.each(torch.neg)), 1.0)))


def _sine(value: Pair) -> Pair:
    real, imag = value.real, value.imaginary()
    return Pair(torch.sin(real) * torch.cosh(imag), torch.cos(real) * torch.sinh(imag))


def _cosine(value: Pair) -> Pair:
    real, imag = value.real, value.imaginary()
    return Pair(torch.cos(real) * torch.cosh(imag), -torch.sin(real) * torch.sinh(imag))


_HANDLERS: dict[str, Handler] = {
    "aten::add": _binary(pairs.add),
    "aten::sub": _binary(pairs.subtract),
    "aten::rsub": _rsub,
    "aten::mul": _binary(pairs.multiply),
    "aten::div": _divide,
    "aten::true_divide": _divide,
    "aten::pow": _binary(pairs.power),
    "aten::float_power": _binary(pairs.power),
    "aten::neg": _unary(pairs.negative),
    "aten::square": _unary(lambda value: pairs.multiply(value, value)),
    "aten::positive": _unary(lambda value: value),
    "aten::conj": _unary(pairs.conjugate),
    "aten::_conj": _unary(pairs.conjugate),
    "aten::conj_physical": _unary(pairs.conjugate),
    "aten::_conj_physical": _unary(pairs.conjugate),
    "aten::resolve_conj": _unary(lambda value: value),
    "aten::resolve_neg": _unary(lambda value: value),
    "aten::abs": _unary(pairs.magnitude),
    "aten::angle": _unary(pairs.angle),
    "aten::real": _unary(lambda value: value.real),
    "aten::imag": _unary(lambda value: value.imaginary()),
    "aten::exp": _unary(pairs.exponential),
    "aten::log": _unary(pairs.logarithm),
    "aten::sqrt": _unary(pairs.square_root),
    "aten::rsqrt": _unary(lambda value: pairs.reciprocal(pairs.square_root(value))),
    "aten::sgn": _unary(pairs.sign),
    "aten::reciprocal": _unary(pairs.reciprocal),
    "aten::tanh": _unary(_tanh),
    "aten::sigmoid": _unary(_sigmoid),
    "aten::sin": _unary(_sine),
    "aten::cos": _unary(_cosine),
    "aten::isnan": _unary(
        lambda v: torch.logical_or(torch.isnan(v.real), torch.isnan(v.imaginary()))
    ),
    "aten::isfinite": _unary(
        lambda v: torch.logical_and(torch.isfinite(v.real), torch.isfinite(v.imaginary()))
    ),
    "aten::is_complex": _unary(lambda value: True),
    "aten::nan_to_num": lambda target, value, *rest, **kw: as_pair(value).each(
        lambda part: target(part, *rest, **kw)
    ),
    "aten::eq": _equal,
    "aten::ne": _not_equal,
    "aten::where": _where,
    "aten::masked_fill": _masked_fill,
    "aten::pad": _pad,
    "aten::constant_pad_nd": _pad,
    "aten::to": _to,
    "aten::_to_copy": _to,
    "aten::type_as": _to,
    "aten::matmul": _bilinear,
    "aten::mm": _bilinear,
    "aten::bmm": _bilinear,
    "aten::mv": _bilinear,
    "aten::dot": _bilinear,
    "aten::outer": _bilinear,
    "aten::vdot": lambda target, left, right: pairs.bilinear(
        torch.dot, pairs.conjugate(as_pair(left)), as_pair(right)
    ),
    "aten::addmm": _addmm,
    "aten::baddbmm": _addmm,
    "aten::linear": _linear,
    "aten::einsum": _einsum,
    "aten::conv1d": _convolution,
    "aten::conv2d": _convolution,
    "aten::conv3d": _convolution,
    "aten::conv_transpose2d": _convolution,
    "aten::fill": _fill,
    "aten::_neg_view": _unary(pairs.negative),
    "aten::addcmul": lambda target, start, left, right, value=1: pairs.add(
        start, pairs.multiply(left, right), value
    ),
    "aten::addcdiv": lambda target, start, left, right, value=1: pairs.add(
        start, pairs.divide(left, right), value
    ),
    "aten::lerp": lambda target, start, end, weight: pairs.add(
        start, pairs.multiply(pairs.subtract(end, start), weight)
    ),
    "aten::tensordot": _bilinear_with,
    "aten::inner": _bilinear,
    "aten::kron": _bilinear,
    "aten::linalg_norm": _matrix_norm,
    "aten::linalg_matrix_norm": _matrix_norm,
    "aten::linalg_vector_norm": _norm,
    "aten::norm": _norm,
    "aten::var": _variance,
    "aten::std": _deviation,
    "aten::prod": _product_over,
    "aten::sym_size": _size,
    **dict.fromkeys(
        ("aten::zeros", "aten::ones", "aten::full", "aten::empty", "aten::scalar_tensor"), _create
    ),
    **dict.fromkeys(
        (
            *("aten::zeros_like", "aten::ones_like", "aten::full_like", "aten::empty_like"),
            *("aten::new_zeros", "aten::new_ones", "aten::new_full", "aten::new_empty"),
            *("aten::eye", "aten::tensor"),
        ),
        _create,
    ),
    "aten::complex": lambda target, real, imag: pairs.joined(real, imag),
    "aten::polar": lambda target, modulus, phase: pairs.polar(modulus, phase),
}
_LINEAR = frozenset(
    f"aten::{name}"
    for name in (
        *("squeeze", "unsqueeze", "view", "reshape", "_unsafe_view", "permute", "transpose", "t"),
        *("expand", "expand_as", "view_as", "slice", "select", "index_select", "narrow", "flip"),
        *("split", "split_with_sizes", "chunk", "unbind", "repeat", "tile", "clone", "contiguous"),
        *("detach", "detach_", "alias", "movedim", "moveaxis", "swapaxes", "swapdims", "flatten"),
        *("unflatten", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "gather"),
        *("index", "sum", "mean", "cumsum", "roll", "slice_scatter", "select_scatter", "copy"),
        *("lift_fresh_copy", "lift_fresh", "triu", "tril", "diagonal", "diff", "rot90"),
        *("reflection_pad2d", "replication_pad2d", "avg_pool2d", "adaptive_avg_pool2d"),
        *("upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "interpolate"),
        *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "im2col", "col2im"),
        *(
            "dropout",
            "repeat_interleave",
            "broadcast_to",
            "squeeze_copy",
            "index_put",
            "masked_scatter",
            "atleast_1d",
        ),
        *("scatter", "scatter_add", "index_add", "diagonal_scatter", "cross", "diag_embed"),
        *("mT", "adjoint", "numpy_T", "matrix_H", "take_along_dim", "sum_to_size", "trace"),
    )
)
"""Operators that treat real and imaginary part alike."""
