"""Any `nn.Module` as a functional graph of ATen operators, open in batch and matrix."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from kspacesr_rt.errors import ExporterError, ExportError, KspaceSRError
from kspacesr_rt.export import (
    array_functions,
    hermitian_transforms,
    order_statistics,
    real_operators,
    recurrences,
    small_matrices,
    special_functions,
)
from kspacesr_rt.export.dynamic_lengths import lengths_of, open_arithmetic, short_reasoning
from kspacesr_rt.export.image_blocks import in_blocks, joined
from kspacesr_rt.export.masked_samples import without_checks
from kspacesr_rt.export.source_locations import first_line, place_of_error, whole_places

LONGEST_LIST = 64
"""Numbers of Python that are followed through a trace."""
EXAMPLE_BATCH = 3
"""Slices of the example: `torch.export` treats 1 as a number of its own."""
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **real_operators.OF_OPEN_LENGTH,
    **array_functions.FUNCTIONS,
    **hermitian_transforms.FUNCTIONS,
    **order_statistics.FUNCTIONS,
    **recurrences.FUNCTIONS,
    **small_matrices.FUNCTIONS,
    **special_functions.FUNCTIONS,
}
"""Functions of PyTorch, and what stands for them while a network is traced."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch's exporters say of themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_axes(example: Tensor, *, batch: bool, matrix: bool, multiple: int = 1) -> dict[int, Any]:
    """Return which axes `torch.export` leaves open, of an image in blocks.

    Parameters
    ----------
    example
        Shape ``(n, ..., y, x)``.
    batch, matrix
        Whether batch, and rows and columns, are left open.
    multiple
        What rows and columns are multiples of.
    """
    rank = example.dim()
    matrix_axes = (rank - 2, rank - 1 if multiple == 1 else rank)
    axes = (*([0] if batch else []), *(matrix_axes if matrix else []))
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


def exported_graph(
    module: nn.Module, example: Tensor, axes: dict[int, Any], multiple: int = 1
) -> fx.GraphModule:
    """Trace a module to a functional graph of ATen operators, that takes an image in blocks.

    Parameters
    ----------
    module
        In evaluation mode; it is not changed.
    example
        What it is traced with.
    axes
        From `open_axes`.
    multiple
        What rows and columns are multiples of, the length of a block; 1 for an image as it is.

    Raises
    ------
    ExportError
        If it cannot be traced, or an axis that should be open is not.
    """
    try:
        made = _traced(module, example, axes, multiple, weights_written=False)
    except _WritesWeightsError:
        # What it computes of its weights it has computed once it has run.
        with torch.no_grad():
            module(example)
        made = _traced(module, example, axes, multiple, weights_written=True)
    without_checks(made)
    return made


def _traced(
    module: nn.Module,
    example: Tensor,
    axes: dict[int, Any],
    multiple: int,
    *,
    weights_written: bool,
) -> fx.GraphModule:
    lengths = _OpenLengths(weights_written=weights_written)
    with (
        quiet(),
        torch.no_grad(),
        whole_places(),
        open_arithmetic(module),
        short_reasoning(),
        lengths,
    ):
        try:
            program = torch.export.export(
                _Held(module, multiple).eval(),
                (in_blocks(example, multiple),),
                dynamic_shapes=(axes,),
                strict=False,
            ).run_decompositions({})
        except _WritesWeightsError:
            raise
        except Exception as exc:
            raise trace_error(exc) from exc
        return program.module(check_guards=False)


class _WritesWeightsError(Exception):
    """A network sets weights while it runs, as some do that join several layers to one."""


class _Held(nn.Module):
    """A network one level down, where its weights may have any name.

    What torch.export makes of a network is a module with attributes of its own, such as ``code``
    and ``graph``, which no weight of the outermost module may be called.
    """

    def __init__(self, net: nn.Module, multiple: int) -> None:
        super().__init__()
        self.net, self.multiple = net, multiple

    def forward(self, blocks: Tensor) -> Any:
        with lengths_of(blocks):
            return self.net(joined(blocks, self.multiple))


class _OpenLengths(TorchFunctionMode):
    """Write functions whose length torch would take as a number with others that leave it open.

    What follows from Python numbers alone, as ``torch.tensor([0, 1]).sum() != 0``, is computed
    beside the trace too, so that a network may decide by it.

    Parameters
    ----------
    weights_written
        The network has run, and has set the weights that it sets (``weight.data = ...``): they stay
        as they are. Without, the first that is set ends the trace. What is set from an image, the
        gate finds, which has several.
    """

    def __init__(self, *, weights_written: bool = False) -> None:
        super().__init__()
        self._weights_written = weights_written
        self._known = WeakTensorKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == _SET_DATA:  # another object each time
            if not self._weights_written:
                raise _WritesWeightsError
            return None
        if func == _GET_DATA:  # what torch.export cannot follow: it takes it for a constant
            return args[0].detach()
        if func is torch.tensor and args and _plain_numbers(args[0]):
            made = func(*args, **kwargs)
            with _disable_current_modes():
                self._known[made] = torch.tensor(args[0])
            return made
        given = [one for one in args if isinstance(one, Tensor)]
        known = bool(given) and all(one in self._known for one in given)
        called: Any = FUNCTIONS.get(func, func)
        if kwargs or not known or _holds_length(args):
            return called(*args, **kwargs)
        with _disable_current_modes():
            real = func(*(self._known[one] if isinstance(one, Tensor) else one for one in args))
        if not isinstance(real, Tensor):
            return real
        made = called(*args)
        self._known[made] = real
        return made


_GET_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]  # a descriptor, not a tensor
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]  # a descriptor, not a tensor


def _holds_length(values: Any) -> bool:
    """Say whether a length that is left open is among arguments."""
    if isinstance(values, list | tuple):
        return any(map(_holds_length, values))
    return isinstance(values, torch.SymInt | torch.SymFloat | torch.SymBool)


def _plain_numbers(values: Any) -> bool:
    """Say whether something is a number of Python, or a short list of such."""
    if isinstance(values, list | tuple):
        return len(values) <= LONGEST_LIST and all(map(_plain_numbers, values))
    return isinstance(values, bool | int | float)


_CONTROL_FLOW = (
    "data-dependent",
    "data dependent",
    "GuardOnDataDependent",
    "aten._local_scalar_dense",
)


_ONE_LENGTH = ("Constraints violated", "ConstraintViolation", "specializ", "Guard failed")


def _is_ours(exc: Exception) -> bool:
    """Say whether an error was raised in this package."""
    frames = [frame for frame, _ in traceback.walk_tb(exc.__traceback__)]
    return bool(frames) and frames[-1].f_globals["__name__"].startswith("kspacesr_rt.")


def trace_error(exc: Exception) -> KspaceSRError:
    """Return what kept a network from being traced, in a sentence, with its place in the source."""
    if isinstance(exc, KspaceSRError):
        return exc
    place = place_of_error(exc)
    where = f"{place}: " if place else ""
    text = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, NotImplementedError) and _is_ours(exc):
        return ExportError(f"{where}{first_line(exc)}", hint="or write it with other operators")
    if any(one in text for one in _CONTROL_FLOW):
        return ExportError(
            f"{where}what the network does there depends on the values of its input",
            hint="write it without `if`, `while` or .item() on tensors: torch.where, torch.clamp",
        )
    if any(one in text for one in _ONE_LENGTH):
        return ExporterError(
            f"torch.export cannot leave {_axes_named(text)} of the network open: something in it "
            "takes a length for a number, such as int(), a list of sizes or a stored shape"
        )
    return ExporterError(
        f"{where}torch.export fails on the network: {type(exc).__name__}: {first_line(exc)}",
        hint="compute with torch in forward, not with NumPy"
        if ".numpy()" in text
        else "does it run in PyTorch on its own? rewrite what stands there with plain operators",
    )


def _axes_named(text: str) -> str:
    found = {int(one) for one in re.findall(r"size\(\)\[(\d+)\]", text)}
    names = [
        name for name, held in (("the batch", 0 in found), ("the matrix", found - {0})) if held
    ]
    return " and ".join(names) or "batch and matrix"
