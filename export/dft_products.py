"""One axis of a Fourier transform as a product with a matrix that the graph makes itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kspacesr_rt.export.complex_pairs import Pair, as_pair
from kspacesr_rt.export.symbolic_sizes import values_of


def product(
    value: Any,
    axis: int,
    *,
    inverse: bool,
    scale: str,
    before: Any,
    after: Any,
    onesided: bool,
    full: Any,
    real_wanted: bool,
    matrices: dict[tuple[str, ...], Tensor],
) -> Pair:
    """Transform one axis.

    Parameters
    ----------
    value
        A pair or a real tensor.
    axis
        Not negative.
    inverse
        Whether the sign of the phase is positive.
    scale
        ``none``, ``ortho`` or ``by_n``.
    before, after
        Samples that the input and the output are rolled by.
    onesided
        Give the non-negative frequencies alone.
    full
        Length of the real result of a onesided spectrum; None for any other transform.
    real_wanted
        Give the real part alone.
    matrices
        Those that were made already.
    """
    pair = as_pair(value)
    rank = pair.real.dim()
    source = pair.real.shape[axis]
    length = source if full is None else full
    target = length // 2 + 1 if onesided else length
    real_wanted = real_wanted or full is not None
    from_left = axis == rank - 2
    if not from_left and axis != rank - 1:
        moved = pair.each(lambda part: part.transpose(axis, rank - 1))
        made = product(
            moved,
            rank - 1,
            inverse=inverse,
            scale=scale,
            before=before,
            after=after,
            onesided=onesided,
            full=full,
            real_wanted=real_wanted,
            matrices=matrices,
        )
        return made.each(lambda part: part.transpose(axis, rank - 1))
    key = tuple(
        str(one)
        for one in (
            *(source, length, target, before, after, inverse, scale, onesided, full is not None),
            *(pair.imag is None, real_wanted, from_left, pair.real.dtype),
        )
    )
    if key not in matrices:
        cosine, sine = _parts(
            *(source, length, target, before, after),
            inverse=inverse,
            scale=scale,
            halved=full is not None,
            like=pair.real,
        )
        matrices[key] = _block(
            cosine, sine, real_input=pair.imag is None, real_output=real_wanted, left=from_left
        )
    matrix = matrices[key]
    stack = -2 if from_left else -1
    given = pair.real if pair.imag is None else torch.cat([pair.real, pair.imag], dim=stack)
    result = torch.matmul(matrix, given) if from_left else torch.matmul(given, matrix)
    if real_wanted:
        return Pair(result)
    return Pair(result.narrow(stack, 0, target), result.narrow(stack, target, target))


def _parts(
    source: Any,
    length: Any,
    target: Any,
    before: Any,
    after: Any,
    *,
    inverse: bool,
    scale: str,
    halved: bool,
    like: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, ``(source, target)``.

    Phases are reduced modulo the length in integers and then to within half a turn, so that
    float32 loses nothing but its last digit.
    """
    device = like.device
    rows = torch.arange(source, device=device)
    columns = torch.arange(target, device=device)
    if not _zero(before):
        rows = rows + before
    if not _zero(after):
        columns = columns - after
    count = torch.full((), length, dtype=torch.int64, device=device)
    turns = torch.remainder(rows.unsqueeze(1) * columns.unsqueeze(0), count)
    turns = torch.where(turns * 2 > count, turns - count, turns)
    real_count = count.to(like.dtype)
    turn = (2.0 if inverse else -2.0) * math.pi
    phase = turns.to(like.dtype) / real_count * turn
    cosine, sine = torch.cos(phase), torch.sin(phase)
    gain: Any = None
    if scale == "ortho":
        gain = torch.rsqrt(real_count)
    elif scale == "by_n":
        gain = torch.reciprocal(real_count)
    if halved:  # negative frequencies are the conjugates of the positive ones
        line = torch.arange(source, device=device)
        alone = (line == 0) | (line * 2 == count)
        weight = torch.where(alone, 1.0, 2.0).to(like.dtype).unsqueeze(1)
        gain = weight if gain is None else weight * gain
    if gain is not None:
        cosine, sine = cosine * gain, sine * gain
    return cosine, sine


def _block(
    cosine: Tensor, sine: Tensor, *, real_input: bool, real_output: bool, left: bool
) -> Tensor:
    """Return the real matrix of a complex one, for parts side by side; transposed for stacked."""
    rows = [[cosine] if real_output else [cosine, sine]]
    if not real_input:
        rows.append([-sine] if real_output else [-sine, cosine])
    joined = [torch.cat(row, dim=1) if len(row) > 1 else row[0] for row in rows]
    block = torch.cat(joined, dim=0) if len(joined) > 1 else joined[0]
    return block.transpose(0, 1) if left else block


def _zero(shift: Any) -> bool:
    return all(value == 0 for (value,) in values_of(shift))
