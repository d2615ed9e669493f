"""Python arithmetic on lengths that would hold an open axis to that of its example.

Window transformers count their windows with ``int(n / (h * w / 8 / 8))``: `int` makes a number of
what should stay open. While a network is traced, its own modules see an `int` that leaves lengths
open, and a division of lengths that leaves no rest is one of whole numbers. So with `len`, which
Python holds to a number, and with dictionaries that keep something for each length. What is a
multiple of rows and columns, as ``((n - 1) | 15) + 1`` is of ``n = 16 * m``, is written as such:
torch would reason about bits and rests at every later operator.
"""

from __future__ import annotations

import builtins
import functools
import operator
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import sympy
import torch
from torch import nn
from torch._refs import fft

from kspacesr_rt.export.symbolic_sizes import answers_by_trial, values_of


class _OpenIntKind(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, builtins.int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, builtins.int)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], torch.SymInt):
            return args[0]
        if len(args) == 1 and not kwargs and isinstance(args[0], torch.SymFloat):
            # torch's stubs leave this function untyped.
            return torch.sym_int(args[0])  # type: ignore[no-untyped-call]
        return builtins.int(*args, **kwargs)


class OpenInt(metaclass=_OpenIntKind):
    """Stands for `int` where a network is traced."""


def _itself(length: Any) -> Any:
    return length


def _open_len(value: Any) -> Any:
    """Stand for `len` where a network is traced."""
    return value.shape[0] if isinstance(value, torch.Tensor) else builtins.len(value)


@contextmanager
def short_reasoning() -> Iterator[None]:
    """Let torch reason about lengths without trying every rule that sympy has.

    It simplifies both sides of each floor division of lengths, which for lengths that a network
    filled up to its windows takes minutes each; cancelling common factors is what is needed of it.
    An orthonormal transform of a stated length it holds to a number, for a square root.
    """
    symbols: Any = sympy
    simplify = symbols.simplify
    symbols.simplify = sympy.cancel
    transforms: Any = fft
    roots = transforms.math
    transforms.math = types.SimpleNamespace(sqrt=torch.sym_sqrt)
    try:
        with answers_by_trial():
            yield
    finally:
        symbols.simplify = simplify
        transforms.math = roots


@contextmanager
def open_arithmetic(module: nn.Module) -> Iterator[None]:
    """Let the source files of a network's layers compute with open lengths."""
    sources = {type(part).__module__ for part in module.modules()}
    changed = []
    for name in sources:
        source = sys.modules.get(name)
        if source is None or name.split(".")[0] in ("torch", "builtins", "kspacesr_rt"):
            continue
        for word, stand_in in (("int", OpenInt), ("len", _open_len)):
            if word not in vars(source):
                vars(source)[word] = stand_in
                changed.append((source, word))
    symbolic: Any = torch.SymInt
    methods = ("__truediv__", "__hash__", *_UNEVEN, *_ROUNDED)
    own = {name: getattr(symbolic, name) for name in methods}

    def hashed(length: Any) -> builtins.int:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.split(".")[0] in _WITHOUT_HASHES and caller != _COMPARES_ATTRIBUTES:
            return hash(own["__hash__"](length))
        expression = length.node.expr
        return hash(builtins.int(expression) if expression.is_Integer else expression)

    def divided(length: Any, by: Any) -> Any:
        if isinstance(by, builtins.int | torch.SymInt) and all(
            b != 0 and a % b == 0 for a, b in values_of(length, by)
        ):
            return length // by
        return own["__truediv__"](length, by)

    symbolic.__truediv__, symbolic.__hash__ = divided, hashed
    for name in _UNEVEN:
        setattr(symbolic, name, _evened(own[name]))
    for name in _ROUNDED:
        setattr(symbolic, name, _itself)
    try:
        yield
    finally:
        for name, method in own.items():
            setattr(symbolic, name, method)
        for source, word in changed:
            del vars(source)[word]


_UNEVEN = ("__floordiv__", "__rfloordiv__", "__mod__", "__rmod__", "__and__", "__or__", "__xor__")
"""Operators on lengths whose results torch cannot multiply out."""
_WITHOUT_HASHES = ("torch", "einops")
"""Packages that find out by it whether a length is open."""
_COMPARES_ATTRIBUTES = "torch._functorch._aot_autograd.frontend_utils"
"""Where torch looks what a network has kept while it was traced."""
_ROUNDED = ("__ceil__", "__floor__", "__trunc__")
"""What ``math.ceil(2 * length)`` calls: ONNX rounds floats alone, and a length is whole."""
_open: ContextVar[tuple[Any, ...]] = ContextVar("open lengths", default=())


@contextmanager
def lengths_of(image: torch.Tensor) -> Iterator[None]:
    """Write lengths as multiples of those of an image, where they are."""
    given = tuple(length for length in image.shape if isinstance(length, torch.SymInt))
    token = _open.set(given)
    try:
        yield
    finally:
        _open.reset(token)


def _evened(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operator whose result is a sum of multiples of the open lengths, if it is one."""

    @functools.wraps(method)
    def computed(left: Any, right: Any) -> Any:
        found = method(left, right)
        if not isinstance(found, torch.SymInt) or not _open.get():
            return found
        return _as_multiples(found)

    return computed


def _as_multiples(length: Any) -> Any:
    expression: Any = length.node.expr
    if not expression.atoms(sympy.Function):
        return length
    bases = _open.get()
    rows = values_of(length, *bases)
    terms = _affine(tuple(rows))
    if terms is None:
        return length
    first, *factors = terms
    parts = [base * factor for base, factor in zip(bases, factors, strict=True) if factor]
    return functools.reduce(operator.add, parts, first)


@functools.lru_cache(maxsize=4096)
def _affine(rows: tuple[tuple[int, ...], ...]) -> tuple[int, ...] | None:
    """Return constant and whole factors with which values follow from others; None if not so.

    Parameters
    ----------
    rows
        Of each trial: a value, and those it may follow from.
    """
    table = np.array(rows, dtype=float)
    inputs = np.concatenate([np.ones((len(table), 1)), table[:, 1:]], axis=1)
    if np.linalg.matrix_rank(inputs) < inputs.shape[1]:
        return None
    factors = np.rint(np.linalg.lstsq(inputs, table[:, 0], rcond=None)[0]).astype(int)
    return tuple(map(int, factors)) if (inputs @ factors == table[:, 0]).all() else None
