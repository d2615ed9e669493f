"""Whether anything in a graph uses the imaginary part of a value."""

from __future__ import annotations

from typing import Any

from torch import fx

_PASSED = {
    *("aten::squeeze", "aten::unsqueeze", "aten::slice", "aten::select", "aten::permute"),
    *("aten::transpose", "aten::reshape", "aten::view", "aten::contiguous", "aten::clone"),
    *("aten::expand", "aten::flip", "aten::roll", "aten::narrow", "aten::fft_fftshift"),
    *("aten::fft_ifftshift", "aten::alias", "aten::detach", "aten::neg", "aten::movedim"),
}
"""Operators that keep real and imaginary part apart."""


def imaginary_unused(node: fx.Node) -> bool:
    """Say whether all that is ever taken of a complex value is its real part."""
    return bool(node.users) and all(_real_alone(user, node) for user in node.users)


def _real_alone(user: fx.Node, node: fx.Node) -> bool:
    schema = getattr(user.target, "_schema", None)
    name = schema.name if schema is not None else ""
    if name == "aten::real":
        return True
    if name == "aten::view_as_real":
        return bool(user.users) and all(_takes_real(one, user) for one in user.users)
    if name in _PASSED:
        return imaginary_unused(user)
    if name in ("aten::mul", "aten::div") and user.args[0] is node:
        other = user.args[1]
        if isinstance(other, fx.Node):
            value: Any = other.meta.get("val")
            complex_other = other is node or not hasattr(value, "is_complex") or value.is_complex()
        else:
            complex_other = isinstance(other, complex)
        return not complex_other and imaginary_unused(user)
    return False


def _takes_real(user: fx.Node, node: fx.Node) -> bool:
    schema = getattr(user.target, "_schema", None)
    if schema is None or schema.name != "aten::select":
        return False
    rank = len(node.meta["val"].shape)
    arguments: Any = user.args
    return bool(arguments[1] % rank == rank - 1 and arguments[2] == 0)
