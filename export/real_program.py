"""A network's exported graph, run with every complex tensor as two real ones.

`torch.export` of this module is a program of real operators, and of whole FFT layers, which torch's
ONNX exporter takes. The nodes keep the place in the user's source that they come from.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx.traceback
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from kspacesr_rt.errors import ExporterError, ExportError, KspaceSRError
from kspacesr_rt.export import fourier, pair_operators, real_operators
from kspacesr_rt.export.complex_pairs import Pair
from kspacesr_rt.export.image_blocks import joined
from kspacesr_rt.export.masked_samples import chosen, of_chosen, takes_chosen
from kspacesr_rt.export.source_locations import first_line, place_of
from kspacesr_rt.export.stacked_pairs import Stacked, settled


class RealProgram(nn.Module):
    """Run a functional ATen graph on real tensors alone.

    Parameters
    ----------
    program
        From `kspacesr_rt.export.module_graph.exported_graph`.
    multiple
        That of its blocks.
    """

    def __init__(self, program: fx.GraphModule, multiple: int = 1) -> None:
        super().__init__()
        self._multiple = multiple
        self._program = (program,)  # in a tuple: its weights are registered here, by part
        self._grids: fourier.Grids | None = None
        self._names: dict[tuple[int, str], str] = {}
        self._register(program)

    def _register(self, program: fx.GraphModule, prefix: str = "") -> None:
        for node in program.graph.nodes:
            if node.op != "get_attr" or (id(program), str(node.target)) in self._names:
                continue
            value = operator.attrgetter(str(node.target))(program)
            if isinstance(value, fx.GraphModule):
                self._register(value, f"{prefix}{node.target}.")
                continue
            if not isinstance(value, Tensor):
                continue
            name = self._unused(f"{prefix}{node.target}".replace(".", "__"))
            self._names[id(program), str(node.target)] = name
            value = value.detach().resolve_conj().resolve_neg()
            if value.is_complex():
                self.register_buffer(f"{name}__real", value.real.clone())
                self.register_buffer(f"{name}__imag", value.imag.clone())
            else:
                self.register_buffer(name, value)

    def _unused(self, name: str) -> str:
        """Return a name that no attribute has: ``a.b`` and ``a__b`` may both be there."""
        number, free = 1, name
        while hasattr(self, free) or hasattr(self, f"{free}__real"):
            number += 1
            free = f"{name}_{number}"
        return free

    def forward(self, blocks: Tensor) -> Any:
        """Run the program on an image in blocks: as the network, with pairs inside."""
        image = joined(blocks, self._multiple)
        self._grids = fourier.Grids(rows=image.shape[-2], columns=image.shape[-1])
        with torch.fx.traceback.preserve_node_meta():
            (result,) = self._run(self._program[0], (blocks,))
        if isinstance(result, Pair):
            raise ExportError(
                "the network's output is complex",
                hint="end it with .abs(), .real or torch.view_as_real, as what is written is real",
            )
        return result

    def _run(self, program: fx.GraphModule, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        run = _Run(self, program, inputs)
        for node in program.graph.nodes:
            with torch.fx.traceback.set_current_meta(node):
                try:
                    run.step(node)
                except KspaceSRError:
                    raise
                except Exception as exc:
                    raise ExporterError(
                        f"{place_of(node)}: {_name(node)} has no lowering here "
                        f"({type(exc).__name__}: {first_line(exc)})",
                        hint=run.advice(node),
                    ) from exc
        return tuple(settled(one) for one in run.results)

    def weight(self, program: fx.GraphModule, target: str) -> Any:
        """Return a parameter or constant of the program."""
        name = self._names.get((id(program), target))
        if name is None:
            return operator.attrgetter(target)(program)
        if hasattr(self, f"{name}__imag"):
            return Pair(getattr(self, f"{name}__real"), getattr(self, f"{name}__imag"))
        return getattr(self, name)


class _Run:
    """One pass over one graph."""

    def __init__(self, owner: RealProgram, program: fx.GraphModule, inputs: tuple[Any, ...]):
        self.owner, self.program = owner, program
        self.values: dict[fx.Node, Any] = {}
        self.results: tuple[Any, ...] = ()
        self._inputs = iter(inputs)
        self.transforms = fourier.Transforms(owner._grids, self.value)

    def value(self, node: Any) -> Any:
        """Return what a node came to, as a tensor, a pair or a number."""
        return settled(self.values[node]) if isinstance(node, fx.Node) else node

    def step(self, node: fx.Node) -> None:
        """Compute one node."""
        if node.op == "placeholder":
            self.values[node] = next(self._inputs)
        elif node.op == "get_attr":
            self.values[node] = self.owner.weight(self.program, str(node.target))
        elif node.op == "output":
            returned: Any = node.args[0]
            if isinstance(returned, fx.Node):
                returned = (returned,)
            self.results = tuple(self.value(one) for one in returned)
        elif node.op == "call_function":
            self.values[node] = self._called(node)
        else:
            raise ExportError(f"{place_of(node)}: {node.op} has no lowering")

    def advice(self, node: fx.Node) -> str:
        """Return what to write instead of a node that has no lowering."""
        if any(isinstance(self.value(one), Pair) for one in node.all_input_nodes):
            return pair_operators.advice(_name(node))
        return "rewrite what stands there with other torch operators"

    def _called(self, node: fx.Node) -> Any:
        if node.target in _IGNORED:
            return None
        if node.target is operator.getitem:
            values, index = (self.value(one) for one in node.args)
            return values[index]
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._higher_order(node)
        name = _name(node)
        if takes_chosen(node, self.values):
            return of_chosen(
                node,
                name,
                self.value,
                lambda name, args, named: self._computed(node, name, args, named),
            )
        picked = chosen(node, name, self.value)
        if picked is not None:
            return picked
        stacked = Stacked.kept(node, name, self.values)
        if stacked is not None:
            return stacked
        transformed = self.transforms.lowered(node, name)
        if transformed is not None:
            return transformed
        args, kwargs = map_arg(node.args, self.value), map_arg(node.kwargs, self.value)
        return self._computed(node, name, args, kwargs)

    def _computed(self, node: fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        """Compute a node with whatever arguments."""
        handler: Callable[..., Any] | None = None
        if pair_operators.concerns(name, args, kwargs):
            handler = pair_operators.handler(name)
            if handler is None:
                raise ExportError(
                    f"{place_of(node)}: {name} of a complex tensor has no lowering",
                    hint=pair_operators.advice(name),
                )
            return handler(node.target, *args, **kwargs)
        handler = real_operators.OPERATORS.get(name)
        if handler is not None:
            return handler(*args, **kwargs)
        call: Any = node.target  # of a call_function node, a function
        return call(*args, **kwargs)

    def _higher_order(self, node: fx.Node) -> Any:
        """Run the body of a context manager such as ``torch.no_grad``."""
        if str(node.target) not in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            raise ExportError(
                f"{place_of(node)}: {node.target} has no lowering",
                hint="write it without control flow that depends on data",
            )
        at = next(i for i, one in enumerate(node.args) if _is_body(one, self.program))
        holder: Any = node.args[at]  # a get_attr node, as `_is_body` has found
        body = operator.attrgetter(str(holder.target))(self.program)
        given = tuple(self.value(one) for one in node.args[at + 1 :])
        return self.owner._run(body, given)


def _is_body(value: Any, program: fx.GraphModule) -> bool:
    return (
        isinstance(value, fx.Node)
        and value.op == "get_attr"
        and isinstance(operator.attrgetter(str(value.target))(program), fx.GraphModule)
    )


def _name(node: fx.Node) -> str:
    """Return ``aten::mul`` for any overload, or the Python function's name."""
    schema = getattr(node.target, "_schema", None)
    return schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))


_IGNORED = {torch.ops.aten._assert_tensor_metadata.default}
