"""Whether two lengths are the same whatever the matrix is."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy import functions

TRIED = (48, 35, 64, 41, 90, 27, 56, 33, 80, 51, 72, 61)
"""Lengths that stand for the open axes, even and odd, in turn."""
TRIALS = 8


def values_of(*lengths: Any) -> list[tuple[int, ...]]:
    """Return what lengths come to for several matrices.

    Parameters
    ----------
    lengths
        Integers, or symbolic ones of `torch.export`.

    Returns
    -------
        One tuple for each matrix that was tried; a single one where nothing is symbolic.
    """
    expressions = [_expression(one) for one in lengths]
    symbols = sorted({symbol for one in expressions for symbol in one.free_symbols}, key=str)
    if not symbols:
        return [tuple(int(one) for one in expressions)]
    trials = [
        {
            symbol: TRIED[(trial * (2 * at + 1) + 5 * at) % len(TRIED)]
            for at, symbol in enumerate(symbols)
        }
        for trial in range(TRIALS)
    ]
    return [tuple(int(one.subs(chosen)) for one in expressions) for chosen in trials]


def _expression(length: Any) -> Any:
    return length.node.expr if isinstance(length, torch.SymInt) else sympy.Integer(length)


def same(left: Any, right: Any, modulus: Any = None) -> bool:
    """Say whether two lengths are equal, or equal in steps of a third, for any matrix."""
    if modulus is None:
        return all(a == b for a, b in values_of(left, right))
    return all((a - b) % n == 0 for a, b, n in values_of(left, right, modulus))


def ratio(length: Any, base: Any) -> int | None:
    """Return how many times longer one length is, whatever the matrix; None if it depends."""
    found = {divmod(a, b) for a, b in values_of(length, base)}
    if len(found) != 1:
        return None
    [(times, rest)] = found
    return times if rest == 0 and times >= 1 else None


@contextmanager
def answers_by_trial() -> Iterator[None]:
    """Let torch ask of lengths whether it is so at every matrix that is tried, before it proves it.

    Its proofs, of which a window transformer needs tens of thousands, are most of an export: two
    thirds of HAT's. What differs between matrices it decides as it does, by the example.
    """
    env: Any = ShapeEnv
    prove, decide = env._maybe_evaluate_static, env.evaluate_sym_node
    trials = _Trials()

    @functools.wraps(prove)  # its cache, which torch clears
    def proved(self: Any, expr: Any, **how: Any) -> Any:
        if not any(how.get(one) for one in ("unbacked_only", "axioms", "var_to_range")):
            found = trials.answer(expr, self)
            if found is not None:
                return found
        return prove(self, expr, **how)

    @functools.wraps(decide)
    def decided(self: Any, node: Any, *given: Any, **how: Any) -> Any:
        found = trials.answer(node.expr, self)
        return decide(self, node, *given, **how) if found is None else found

    env._maybe_evaluate_static, env.evaluate_sym_node = proved, decided
    try:
        yield
    finally:
        env._maybe_evaluate_static, env.evaluate_sym_node = prove, decide


class _Trials:
    """Answers to questions about lengths, from trying them."""

    def __init__(self) -> None:
        self._columns: dict[Any, int] = {}
        """How lengths take turns, by their symbol."""
        self._values: dict[Any, tuple[Any, ...] | None] = {}

    def answer(self, question: Any, env: Any) -> Any:
        """Return sympy's true or false if each trial gives it; None if not, or if it is unclear."""
        if not isinstance(question, sympy.core.relational.Relational):
            return None
        symbols = question.free_symbols
        if any(one not in env.backed_var_to_val or one in env.replacements for one in symbols):
            return None
        answers = set(self._of(question, env) or ())
        return sympy.sympify(*answers) if len(answers) == 1 else None

    def _of(self, expression: Any, env: Any) -> tuple[Any, ...] | None:
        """Return an expression's values, one for each trial; None of what is not known here."""
        if expression not in self._values:
            self._values[expression] = self._computed(expression, env)
        return self._values[expression]

    def _computed(self, expression: Any, env: Any) -> tuple[Any, ...] | None:
        if expression.is_Integer:
            return (int(expression),) * (len(TRIED) + 1)
        if expression.is_Symbol:
            at = self._columns.setdefault(expression, len(self._columns))
            step = _STEPS[at % len(_STEPS)]
            tried = [TRIED[(trial * step + 5 * at) % len(TRIED)] for trial in range(len(TRIED))]
            # The example is one more: torch may have asked for a product of lengths as a number,
            # and asks again whether it is that.
            return (*tried, int(env.backed_var_to_val[expression]))
        compute = _COMPUTED.get(expression.func)
        parts = [self._of(one, env) for one in expression.args] if compute else [None]
        if compute is None or any(one is None for one in parts):
            return None
        try:
            return tuple(compute(*values) for values in zip(*parts, strict=True))
        except (ArithmeticError, TypeError):
            return None


_STEPS = (1, 5, 7, 11)
"""Between a symbol's lengths in `TRIED`; each meets all of them, and no two in the same order."""


def _power(base: int, exponent: int) -> int:
    if exponent < 0:
        raise ArithmeticError("a fraction is no length")
    result: int = base**exponent
    return result


_COMPUTED: dict[Any, Callable[..., Any]] = {
    sympy.Add: lambda *parts: sum(parts),
    sympy.Mul: lambda *parts: math.prod(parts),
    sympy.Pow: _power,
    functions.PowByNatural: _power,
    functions.FloorDiv: operator.floordiv,
    functions.CleanDiv: operator.floordiv,
    functions.Mod: operator.mod,
    functions.PythonMod: operator.mod,
    functions.Max: max,
    functions.Min: min,
    functions.BitwiseFn_bitwise_and: operator.and_,
    functions.BitwiseFn_bitwise_or: operator.or_,
    functions.BitwiseFn_bitwise_xor: operator.xor,
    functions.Identity: lambda value: value,
    sympy.Eq: operator.eq,
    sympy.Ne: operator.ne,
    sympy.Lt: operator.lt,
    sympy.Le: operator.le,
    sympy.Gt: operator.gt,
    sympy.Ge: operator.ge,
}
