"""What a user's network takes and gives, found by running it: axes, upscale, matrices."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from kspacesr_rt.errors import ExportError
from kspacesr_rt.export.module_graph import quiet
from kspacesr_rt.export.source_locations import place_of_call, raised
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.system.interruption import received_signal

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""Of the matrix that a network may need, by its pooling layers or windows."""
_ODD_SHARES = ((37, 45), (19, 23), (9, 11), (5, 7), (3, 5), (1, 3), (1, 3))
"""Multiple to rows and columns that are odd multiples of it."""
SINGLE = (128, 64, 256, 96, 160, 320, 192, 32, 16, 80, 224)
"""Square matrices tried where a network takes no other."""


LONG = 320
"""LR rows or columns of a large matrix; the gate's have 72 at most."""
LARGEST_RUN = 60_000
"""LR samples of the largest batch that is computed, where lengths alone do not do: attention over a
whole image takes memory by their square."""
PLAIN: Matrix = (72, 88)
"""A matrix as an example of the trace; what runs there runs at the gate's, as a rule."""
OTHERS: tuple[tuple[int, Matrix], ...] = (
    (1, (16, 16)),
    (1, (88, 72)),
    (1, (71, 89)),
    (8, PLAIN),
    (1, (LONG, 64)),
    (1, (64, LONG)),
    (1, (LONG, LONG)),
)
"""Batches and LR matrices at which a network may branch: small, more rows than columns, odd, many
slices, large."""
_WINDOW_NAMES = ("window_size", "split_size")
"""Attributes in which window transformers keep the samples per axis of their windows."""
_NARROW = (torch.float16, torch.bfloat16)
CALL_AGREEMENT = 1e-5
"""Largest difference, as a share of the largest sample, between two calls with the same image: what
threads that add up in another order leave."""
ONE_ARGUMENT = "forward is given the image alone: give its other arguments defaults"
BATCH_AGREEMENT = 1e-3
"""Largest difference, as a share of the largest sample, between a slice alone and in a batch: other
sums of the same numbers, never another slice's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The axes of a network's input and output, as declared."""

    upscale: int
    """SR samples per LR sample and axis."""
    input_axes: tuple[int, ...] = (1,)
    """Between batch and matrix: ``(1,)`` of an image, ``(2,)`` or ``(coils, 2)`` of k-space."""
    output_axes: tuple[int, ...] = (1,)
    """The same of the result."""

    def input_shape(self, batch: int, matrix: Matrix) -> tuple[int, ...]:
        """Return the whole shape of an input."""
        return (batch, *self.input_axes, *matrix)

    def output_shape(self, batch: int, matrix: Matrix) -> tuple[int, ...]:
        """Return the whole shape of its result."""
        return (batch, *self.output_axes, *(self.upscale * length for length in matrix))


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What was found."""

    multiple: int
    """Smallest multiple of the matrix that the network takes."""
    fixed: Matrix | None
    """The only matrix it was found to take, None where it takes any multiple."""
    windows: int
    """Multiple of the matrix that its windows have in common, or up to which it fills each matrix
    itself; 1 where neither is so. Such a network takes any matrix, but lengths that follow from
    doing so may keep `torch.export` busy for hours."""
    elsewhere: tuple[tuple[int, Matrix], ...]
    """Batches and matrices at which it takes other paths, as one does that branches on its columns,
    or counts its reductions by a logarithm."""
    batches: bool
    """Whether it takes several slices at once, and makes of each what it makes of it alone."""


def unwrapped(module: Any) -> Any:
    """Return the network inside of what spreads batches over GPUs; anything else as it is."""
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    return module


def require_usable(module: Any) -> None:
    """Refuse what is no network in evaluation mode.

    Raises
    ------
    ExportError
        If it is no module, in training mode, in another type than float32, or has weights that are
        not there yet.
    """
    if not isinstance(module, nn.Module):
        raise ExportError(
            f"expected a torch.nn.Module, found {type(module).__name__}",
            hint="give the network itself; of a class, an instance",
        )
    for name, part in module.named_modules():
        if getattr(part, "training", False):  # a frozen TorchScript module does not say
            where = f"its layer '{name}'" if name else "the network"
            raise ExportError(
                f"{where} is in training mode", hint="call module.eval() before exporting it"
            )
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(value):
            raise ExportError(
                f"weight '{name}' is of a lazy layer and has no shape yet",
                hint="run the network once on an image, and load its weights, before exporting it",
            )
        if value.dtype in (*_NARROW, torch.float64):
            raise ExportError(
                f"weight '{name}' is {str(value.dtype).removeprefix('torch.')}, expected float32",
                hint="call module.float() first; narrower precisions come with `convert`",
            )
        if value.device.type != "cpu":
            raise ExportError(
                f"weight '{name}' is on {value.device}", hint="call module.cpu() first"
            )


def probed(
    module: nn.Module,
    layout: Layout,
    *,
    multiple: int | None,
    fixed: Matrix | None,
    nominal: Matrix,
) -> Probed:
    """Run a network on several matrices and say which it takes.

    Parameters
    ----------
    module
        In evaluation mode.
    layout
        Of its input and output, as declared.
    multiple
        Declared multiple of the matrix; None finds it.
    fixed
        The only matrix it takes, if that is declared.
    nominal
        Tried first where it takes no other.

    Raises
    ------
    ExportError
        If it takes none, or gives something else than declared; the message says what it gives.
    """
    require_usable(module)
    if fixed is not None:
        tried = [(1, fixed)]
    elif multiple is not None:
        rows, columns = _ODD_SHARES[min(range(7), key=lambda i: abs(MULTIPLES[i] - multiple))]
        tried = [(multiple, (multiple * rows, multiple * columns))]
    else:
        tried = [
            (m, (m * rows, m * columns))
            for m, (rows, columns) in zip(MULTIPLES, _ODD_SHARES, strict=True)
        ]
    first: ExportError | None = None
    for found, matrix in tried:
        try:
            _run(module, layout, example(layout, 1, matrix))
        except ExportError as exc:
            first = first or exc
            continue
        _require_repeatable(module, layout, matrix)
        windows = _windows(module, layout, found)
        batches = _takes_batches(module, layout, matrix)
        return Probed(
            multiple=found,
            fixed=fixed,
            windows=windows,
            elsewhere=other_paths(module, layout, found, fixed, batches=batches),
            batches=batches,
        )
    if fixed is None and multiple is None:
        for matrix in (nominal, *((n, n) for n in SINGLE)):
            try:
                _run(module, layout, example(layout, 1, matrix))
            except ExportError:
                continue
            _require_repeatable(module, layout, matrix)
            batches = _takes_batches(module, layout, matrix)
            return Probed(
                multiple=1,
                fixed=matrix,
                windows=1,
                elsewhere=other_paths(module, layout, 1, matrix, batches=batches),
                batches=batches,
            )
    assert first is not None
    if isinstance(first.__cause__, Exception):  # raised, and gave nothing
        _explain_channels(module, layout, tried[-1][1])
        if fixed is None and "CUDA" not in str(first) and ONE_ARGUMENT not in str(first.hint):
            first.hint = (
                f"{first.hint}; one that takes a single matrix is exported with "
                "--fixed-matrix ROWSxCOLUMNS (fixed_matrix=(ROWS, COLUMNS) in Python)"
            )
    if multiple is not None or fixed is not None:
        first.hint = first.hint or "leave the multiple and the fixed matrix out to have them found"
    raise first


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """Notes the places of the first operator that draws numbers, and of one in 16 bits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self.random_at = self.narrow_at = ""
        self.narrow = ""
        """The type of the latter."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.random_at and torch.Tag.nondeterministic_seeded in func.tags:
            self.random_at = place_of_call()
        made = func(*args, **(kwargs or {}))
        if not self.narrow and isinstance(made, Tensor) and made.dtype in _NARROW:
            self.narrow, self.narrow_at = str(made.dtype).removeprefix("torch."), place_of_call()
        return made


def _require_repeatable(module: nn.Module, layout: Layout, matrix: Matrix) -> None:
    """Refuse a network that makes something else of an image each time, or computes in 16 bits.

    Raises
    ------
    ExportError
        With the place where that is, if it can be told.
    """
    given = example(layout, 1, matrix)
    with _Calls() as calls:
        first = _run(module, layout, given)
    kept = {name: value.clone() for name, value in module.named_buffers()}
    if calls.narrow:
        raise ExportError(
            f"{_at(calls.narrow_at)}the network computes in {calls.narrow} there, expected float32",
            hint="leave torch.autocast, .half() and .bfloat16() out of forward; `convert` makes "
            "narrower precisions of the exported file, and proves them",
        )
    second = _run(module, layout, given)
    if (second - first).abs().max() <= CALL_AGREEMENT * first.abs().max():
        return
    changed = [
        name
        for name, value in module.named_buffers()
        if name in kept and not torch.equal(value, kept[name])
    ]
    why = f": its buffer '{changed[0]}' changes each time" if changed else ""
    raise ExportError(
        f"{_at(calls.random_at)}the network's output on the same image differs from call to call"
        f"{'' if calls.random_at else why}",
        hint="leave random numbers, and what it keeps between calls, out of forward; of dropout: "
        "F.dropout(x, p, training=self.training)",
    )


def _at(place: str) -> str:
    return f"{place}: " if place else ""


_OF_STRIDES = ("clone", "view", "_unsafe_view", "_reshape_alias", "alias", "detach", "contiguous")
"""Operators that run, or do not, by how samples lie in memory."""


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """Notes which operators run, on which weights, and with which numbers."""

    def __init__(self, weights: dict[int, str], *, with_numbers: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self.path: list[tuple[object, ...]] = []
        self._weights = weights
        self._with_numbers = with_numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if name.removeprefix("aten::").split(".")[0] not in _OF_STRIDES:
            used = [self._weights[id(arg)] for arg in args if id(arg) in self._weights]
            numbers = [arg for arg in args if isinstance(arg, int | float)]
            factors = self._with_numbers and torch.Tag.pointwise in func.tags
            self.path.append((name, *used, *(numbers if factors else [])))
        return func(*args, **(kwargs or {}))


def other_paths(
    module: nn.Module, layout: Layout, multiple: int, fixed: Matrix | None, *, batches: bool
) -> tuple[tuple[int, Matrix], ...]:
    """Return batches and matrices at which a network runs other operators than at a plain one.

    A trace follows one path. Tensors have lengths here and no samples, so that no matrix is too
    large; a network that asks for samples is computed, at what is not.
    """
    plain = fixed or brought(PLAIN, multiple)
    others = [
        (batch, fixed or brought(matrix, multiple))
        for batch, matrix in OTHERS
        if (batches or batch == 1) and not (fixed and batch == 1)
    ]
    try:
        apart = copy.deepcopy(module)  # it may keep what has no samples
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _branches(apart, layout, plain, others, with_numbers=True)
    except Exception:  # the network asks for samples, or is one that cannot be copied
        others = [(n, matrix) for n, matrix in others if n * math.prod(matrix) < LARGEST_RUN]
        # Its numbers may be samples.
        return _branches(module, layout, plain, others, with_numbers=False)


def _branches(
    module: nn.Module,
    layout: Layout,
    plain: Matrix,
    others: list[tuple[int, Matrix]],
    *,
    with_numbers: bool,
) -> tuple[tuple[int, Matrix], ...]:
    named = [*module.named_parameters(), *module.named_buffers()]
    weights = {id(value): name for name, value in named}

    def path_at(batch: int, matrix: Matrix) -> list[tuple[object, ...]]:
        given = torch.full(layout.input_shape(batch, matrix), 0.5)
        with _Operators(weights, with_numbers=with_numbers) as operators, torch.no_grad(), quiet():
            module(given)
        return operators.path

    seen = [path_at(1, plain)]
    found = []
    for batch, matrix in others:
        try:
            path = path_at(batch, matrix)
        except Exception:  # what PyTorch does not compute there, no file has to
            continue
        if path not in seen:
            seen.append(path)
            found.append((batch, matrix))
    return tuple(found)


def brought(matrix: Matrix, multiple: int) -> Matrix:
    """Return a matrix with rows and columns made up to multiples."""
    return (-(-matrix[0] // multiple) * multiple, -(-matrix[1] // multiple) * multiple)


class _Pads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """Notes by how much each padding of a network pads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self.margins: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "pad" in func.name() and len(args) > 1 and isinstance(args[1], list | tuple):
            self.margins.append(tuple(args[1]))
        return func(*args, **(kwargs or {}))


def _filled_up_to(module: nn.Module, layout: Layout, least: int) -> int:
    """Return the multiple up to which a network pads each matrix itself; 1 if it does not.

    Such margins come again after a period, and are the same for all multiples. Others, such as
    those of a zero-fill, grow with the matrix.
    """
    period = MULTIPLES[-1]
    steps = [one for one in MULTIPLES[:-1] if one >= least]
    found: dict[int, list[tuple[int, ...]]] = {}
    for length in (period, *(period + one for one in steps), 2 * period + least):
        with _Pads() as pads:
            try:
                _run(module, layout, example(layout, 1, (length, period)))
            except ExportError:
                return 1
        found[length] = pads.margins
    first, again = found[period + least], found[2 * period + least]
    growing = {at for at, (a, b) in enumerate(zip(first, again, strict=False)) if a != b}
    if len(first) != len(again) or (growing and len({len(one) for one in found.values()}) > 1):
        return 1
    margins = {
        length: [one for at, one in enumerate(all_of_it) if at not in growing]
        for length, all_of_it in found.items()
    }
    for multiple in steps:
        if all(margins[period + one] == margins[period] for one in steps if one >= multiple):
            return multiple if multiple > least else 1
    return period


def _windows(module: nn.Module, layout: Layout, least: int) -> int:
    """Return the least common multiple of the windows that layers state, and are filled up to."""
    found = _filled_up_to(module, layout, least) if least < MULTIPLES[-1] else 1
    for part in module.modules():
        for name in _WINDOW_NAMES:
            stated = getattr(part, name, None)
            for size in stated if isinstance(stated, list | tuple) else [stated]:
                if isinstance(size, int) and not isinstance(size, bool) and size > 1:
                    found = math.lcm(found, size)
    return found if found <= MULTIPLES[-1] else 1


def _takes_batches(module: nn.Module, layout: Layout, matrix: Matrix) -> bool:
    """Say whether each slice of a batch is computed as on its own.

    ``fftshift(x)`` without axes, for one, moves the slices of a batch too, and ``x / x.max()``
    divides each by the maximum of all.
    """
    gain = torch.tensor([1.0, 0.1, 0.4]).reshape(3, *[1] * (len(layout.input_axes) + 2))
    batch = gain * example(layout, 3, matrix) ** (1 + gain)  # of other maximum, mean and spread
    try:
        together = _run(module, layout, batch)
        alone = torch.cat([_run(module, layout, batch[at : at + 1]) for at in range(3)])
    except ExportError:
        return False
    return bool((together - alone).abs().max() <= BATCH_AGREEMENT * alone.abs().max())


def example(layout: Layout, batch: int, matrix: Matrix, seed: int = 0) -> Tensor:
    """Return an input of values between 0 and 1."""
    values = np.random.default_rng(seed).random(layout.input_shape(batch, matrix), dtype=np.float32)
    return torch.from_numpy(values)


def _run(module: nn.Module, layout: Layout, given: Tensor) -> Tensor:
    """Run a network once, check what comes out, and return it."""
    with torch.no_grad(), quiet():
        try:
            made = module(given.clone())  # it may change its input in place
        except BaseException as exc:
            if received_signal() is not None:
                raise
            raise ExportError(
                f"the network fails on an input of {_by(given.shape)}: {raised(exc)}",
                hint=_hint_of_failure(exc),
            ) from exc
    if not isinstance(made, Tensor):
        key = _key_of_image(made, layout, given)
        chosen = f": forward(x) = net(x)[{key!r}]" if key is not None else ""
        raise ExportError(
            f"the network returns {_described(made)}, expected one tensor",
            hint=f"wrap it in a module whose forward returns the image alone{chosen}",
        )
    wanted = layout.output_shape(given.shape[0], (given.shape[-2], given.shape[-1]))
    if tuple(made.shape) != wanted:
        raise _wrong_shape(made, given, layout, wanted)
    if made.is_complex():
        raise ExportError(
            "the network's output is complex",
            hint="end it with .abs(), .real or torch.view_as_real: what is written is real",
        )
    if made.dtype not in (torch.float32, torch.float64):
        raise ExportError(
            f"the network's output is {str(made.dtype).removeprefix('torch.')}, expected float32",
            hint="end it with .float(), if these are the samples of an image",
        )
    if not made.any():
        raise ExportError(
            "the network's output is zero everywhere on values from 0 to 1",
            hint="are its weights loaded? of zeros nothing can be proved",
        )
    if not torch.isfinite(made).all():
        raise ExportError(
            "the network's output is not finite (NaN or infinity) on values from 0 to 1",
            hint="are its weights loaded? run it in PyTorch on an image first",
        )
    return made


def _hint_of_failure(exc: BaseException) -> str:
    """Return what to change in a network that fails on an image."""
    if not isinstance(exc, Exception):
        return "leave exit(), and what else ends a program, out of forward"
    if "CUDA" in str(exc):
        return "make tensors where its input is, as in torch.zeros(3, device=x.device)"
    if isinstance(exc, TypeError) and re.search(r"required (positional|keyword)", str(exc)):
        return f"{ONE_ARGUMENT}, or wrap it in a module that gives them: forward(x) = net(x, 0.1)"
    return "it must take an image (n, 1, y, x) of one channel and give (n, 1, s*y, s*x)"


def _described(made: Any) -> str:
    if isinstance(made, list | tuple):
        return f"a {type(made).__name__} of {len(made)}"
    if isinstance(made, Mapping):
        return f"a {type(made).__name__} of {', '.join(repr(key)[:40] for key in [*made][:5])}"
    return f"a {type(made).__name__}"


def _key_of_image(made: Any, layout: Layout, given: Tensor) -> int | str | None:
    """Return where in what a network returns the image is; None if it is not there."""
    wanted = layout.output_shape(given.shape[0], (given.shape[-2], given.shape[-1]))
    entries: list[tuple[Any, Any]] = []
    if isinstance(made, Mapping):
        entries = [*made.items()]
    elif isinstance(made, list | tuple):
        entries = [*enumerate(made)]
    for key, value in entries:
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        if shape == wanted and isinstance(key, int | str):
            return key
    return None


def _wrong_shape(
    made: Tensor, given: Tensor, layout: Layout, wanted: tuple[int, ...]
) -> ExportError:
    message = f"the network gives {_by(made.shape)} for {_by(given.shape)}"
    if made.dim() == len(wanted) and tuple(made.shape[:-2]) == wanted[:-2]:
        ratios = {a / b for a, b in zip(made.shape[-2:], given.shape[-2:], strict=True)}
        if len(ratios) == 1 and ratios != {layout.upscale}:
            [ratio] = ratios
            whole = ratio.is_integer() and ratio >= 1
            return ExportError(
                f"{message}: it upscales by {ratio:g}, not by {layout.upscale} as stated",
                hint=f"state an upscale of {ratio:g}" if whole else None,
            )
    if made.dim() == len(wanted) and made.shape[1] == 3 and wanted[1] == 1:
        return ExportError(
            f"{message}: 3 channels, expected 1",
            hint="average them at the end of its forward: .mean(1, keepdim=True)",
        )
    if tuple(made.shape) == (wanted[0], *wanted[-2:]) and len(wanted) == 4:
        return ExportError(
            f"{message}, without the channel axis: expected {_by(wanted)}",
            hint="end it with .unsqueeze(1)",
        )
    return ExportError(
        f"{message}, expected {_by(wanted)}",
        hint="what is exported takes an image (n, 1, y, x) and gives (n, 1, s*y, s*x)",
    )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _explain_channels(module: nn.Module, layout: Layout, matrix: Matrix) -> None:
    """Say so if a network takes three channels, or images without an axis of channels."""
    if layout.input_axes != (1,):
        return
    for size in (matrix, (64, 64)):
        if _gives(module, (1, *size)) == (1, *(layout.upscale * length for length in size)):
            raise ExportError(
                "the network takes images (n, y, x), without an axis of channels",
                hint="wrap it: forward(x) = net(x[:, 0])[:, None]",
            )
        if _gives(module, (1, 3, *size)) is not None:
            raise ExportError(
                "the network takes 3 channels, and an MR image has 1",
                hint="wrap it: forward(x) = net(x.expand(-1, 3, -1, -1)).mean(1, keepdim=True)",
            )


def _gives(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape that a network makes of one; None if it fails, or gives no tensor."""
    with torch.no_grad(), quiet():
        try:
            made = module(torch.rand(*shape))
        except Exception:
            return None
    return tuple(made.shape) if isinstance(made, Tensor) else None
