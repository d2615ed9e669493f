"""Recurrent layers as one ONNX node for each layer and direction, of any number of steps.

`torch.export` writes a GRU's steps out one by one, which holds the matrix to that of the example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DEFAULT_DOMAIN_VERSION = 20
"""Of ONNX's own operators, as `kspacesr_rt.graph.bodies.OPSET` says."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """A kind of recurrent layer, in PyTorch and in ONNX."""

    operator: str
    """Of ONNX."""
    gates: tuple[int, ...]
    """Which of PyTorch's gates comes first, second, ... in ONNX."""
    attributes: dict[str, Any]
    compute: Callable[..., Any]
    """PyTorch's own."""
    has_cell_state: bool = False


_VF: Any = torch._VF  # the functions under torch.nn's recurrent layers, which has no stubs
_CELLS = {
    "gru": _Cell("GRU", (1, 0, 2), {"linear_before_reset": 1}, _VF.gru),
    "lstm": _Cell("LSTM", (0, 3, 1, 2), {}, _VF.lstm, has_cell_state=True),
    "rnn_tanh": _Cell("RNN", (0,), {}, _VF.rnn_tanh),
}


def _reordered(weight: Tensor, gates: tuple[int, ...]) -> Tensor:
    """Return a weight whose rows, gate by gate, are in the order of ONNX."""
    parts = weight.chunk(len(gates), dim=0)
    return torch.cat([parts[gate] for gate in gates], dim=0)


def _direction(cell: _Cell, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return input weights, recurrent weights and biases of one layer and direction."""
    into, recurrent, *biases = (_reordered(one, cell.gates) for one in weights)
    if not biases:
        biases = [torch.zeros(into.shape[0])] * 2
    return into, recurrent, torch.cat(biases)


def _layer(
    cell: _Cell, steps: Tensor, states: Sequence[Tensor], directions: list[Sequence[Tensor]]
) -> tuple[Tensor, list[Tensor]]:
    """Add one layer: ``(steps, n, features)`` to ``(steps, n, directions * hidden)``, and states.

    `states` are the first ones, ``(directions, n, hidden)``.
    """
    made = [_direction(cell, one) for one in directions]
    weights = [torch.stack(parts) for parts in zip(*made, strict=True)]
    length, n, _ = steps.shape
    n_directions, hidden = len(directions), states[0].shape[-1]
    attributes: dict[str, Any] = {
        "hidden_size": hidden,
        "direction": "bidirectional" if n_directions == 2 else "forward",
    }
    attributes |= cell.attributes
    state_shape = (n_directions, n, hidden)
    found = torch.onnx.ops.symbolic_multi_out(
        cell.operator,
        [steps, *weights, None, *states],
        attributes,
        dtypes=(steps.dtype,) * (1 + len(states)),
        shapes=((length, n_directions, n, hidden), *[state_shape] * len(states)),
        version=DEFAULT_DOMAIN_VERSION,
    )
    sequence = found[0].permute(0, 2, 1, 3).reshape(length, n, n_directions * hidden)
    return sequence, list(found[1:])


def _recurrence(cell: _Cell) -> Callable[..., Any]:
    """Return what stands for PyTorch's function of a cell while a network is traced."""

    def run(
        given: Tensor,
        states: Any,
        weights: Any,
        has_biases: Any,
        n_layers: Any = None,
        dropout: Any = None,
        train: Any = None,
        bidirectional: Any = None,
        batch_first: Any = False,
        *packed: Any,
    ) -> Any:
        if packed or isinstance(has_biases, list | tuple) or isinstance(weights, Tensor):
            raise NotImplementedError(
                "a recurrent layer of packed sequences: give it one tensor, of rows or columns"
            )
        first = list(states) if cell.has_cell_state else [states]
        if not torch.compiler.is_exporting():
            return cell.compute(
                *(given, states, weights, has_biases, n_layers, dropout),
                *(train, bidirectional, batch_first),
            )
        n_directions, n_weights = 1 + bool(bidirectional), 4 if has_biases else 2
        if len(weights) != n_layers * n_directions * n_weights:
            raise NotImplementedError("an LSTM with projections: write proj_size=0 and a Linear")
        steps = given.transpose(0, 1) if batch_first else given
        last: list[list[Tensor]] = [[] for _ in first]
        for layer in range(n_layers):
            at = layer * n_directions
            own = [one.narrow(0, at, n_directions) for one in first]
            directions = [
                weights[(at + i) * n_weights : (at + i + 1) * n_weights]
                for i in range(n_directions)
            ]
            steps, ended = _layer(cell, steps, own, directions)
            for kept, state in zip(last, ended, strict=True):
                kept.append(state)
        result = steps.transpose(0, 1) if batch_first else steps
        return (result, *(torch.cat(kept, dim=0) for kept in last))

    return run


def _of_relu(*args: Any) -> Any:
    """Refuse a layer whose activation would be a list of texts in the file, which none may hold."""
    if torch.compiler.is_exporting():
        raise NotImplementedError("an RNN with nonlinearity='relu': 'tanh', a GRU or an LSTM do")
    return _VF.rnn_relu(*args)


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **{cell.compute: _recurrence(cell) for cell in _CELLS.values()},
    _VF.rnn_relu: _of_relu,
}
"""PyTorch's functions of recurrent layers, and what stands for them while a network is traced."""
