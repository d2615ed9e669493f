"""One thin layer over `tensorrt` 10.13 to 11 and `tensorrt_rtx`: what differs is only in here.

Networks are strongly typed: 11 and RTX know nothing else, 10 is told so. Types then come from the
model alone, and no builder flag can narrow what the model keeps wide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.runtime.tensorrt.failures import ParserComplaint, builder_failure, parser_failure
from kspacesr_rt.runtime.tensorrt.fused_layers import HEADER, FusedLayer, read_fused_layers
from kspacesr_rt.runtime.tensorrt.kernel_cache import KernelCache
from kspacesr_rt.runtime.tensorrt.library import Module, is_rtx, version_of

if TYPE_CHECKING:
    from kspacesr_rt.runtime.tensorrt.inputs import EngineInputs

LayerCounts = dict[str, dict[str, int]]
"""Layer type to type of its first output to number of layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """What a builder made."""

    plan: bytes
    """The engine."""
    layers: LayerCounts
    """Of the network as it was parsed, before anything was fused."""
    fused: tuple[FusedLayer, ...] = ()
    """Of the engine, after it; empty if the runtime does not say."""
    timing: bytes = b""
    """Measurements worth keeping for the next build; empty if the runtime takes none."""


def message_log(trt: Module) -> Any:
    """Return a logger with ``errors``, what the library would have printed, and ``layers``.

    The latter are its messages that list an engine's layers; see `read_fused_layers`.
    """

    class MessageLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)
            elif message.startswith(HEADER):
                self.layers.append(message)

    return MessageLog()


def compile_engine(
    trt: Module,
    inputs: EngineInputs,
    content: bytes,
    *,
    timing: bytes = b"",
    monitor: Any = None,
) -> Compiled:
    """Parse a bound model and build its engine, in this process.

    Parameters
    ----------
    trt
        What `load_runtime` returned.
    inputs
        What to build for.
    content
        Bytes of the bound model.
    timing
        What an earlier build measured on this GPU.
    monitor
        Called with phases and steps; see `progress_monitor`.

    Raises
    ------
    EngineError
        If the parser or the builder refuses; nodes are named.
    """
    log = message_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        raise parser_failure(_complaints(parser))
    layers = count_layers(network)
    config = builder.create_builder_config()
    _set_flags(trt, config, inputs)
    profile = builder.create_optimization_profile()
    entry = network.get_input(0)
    _, *lengths = entry.shape  # what the graph says, whatever it takes; the batch is open
    profile.set_shape(entry.name, *((n, *lengths) for n in inputs.batch))
    config.add_optimization_profile(profile)
    if monitor is not None:
        config.progress_monitor = monitor
    cache = None if is_rtx(trt) else _timing_cache(config, timing)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise builder_failure(log.errors)
    measured = b"" if cache is None else bytes(cache.serialize())
    return Compiled(
        plan=bytes(plan), layers=layers, fused=read_fused_layers(log.layers), timing=measured
    )


def _network_flags(trt: Module) -> int:
    if is_rtx(trt) or version_of(trt) >= (11, 0):
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _set_flags(trt: Module, config: Any, inputs: EngineInputs) -> None:
    if inputs.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default
    if inputs.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, inputs.workspace_bytes)
    if inputs.optimisation_level is not None:
        config.builder_optimization_level = inputs.optimisation_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # lists what it fused
    if is_rtx(trt):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, inputs.gpu.upper()), 0)
        # Only then does RTX promise that a CUDA graph can be captured; see `create_context`.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def _timing_cache(config: Any, timing: bytes) -> Any:
    cache = config.create_timing_cache(timing)
    # One from another GPU or version is refused; measuring anew is slow, but right.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _complaints(parser: Any) -> list[ParserComplaint]:
    complaints = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        # A node in a function's body has no name of its own; the layer that was called has.
        stack = [str(call).split(" (")[0] for call in error.local_function_stack()]
        complaints.append(
            ParserComplaint(
                node=error.node_name() or "/".join(stack) or f"node {error.node()}",
                operator=error.node_operator(),
                description=error.desc(),
            )
        )
    return complaints


def count_layers(network: Any) -> LayerCounts:
    """Count a network's layers by their type and the type of what they give."""
    counts: LayerCounts = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        dtype = layer.get_output(0).dtype.name if layer.num_outputs else "NONE"
        of_type = counts.setdefault(layer.type.name, {})
        of_type[dtype] = of_type.get(dtype, 0) + 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def progress_monitor(
    trt: Module,
    started: Callable[[str, str | None, int], None],
    stepped: Callable[[str, int], None],
    finished: Callable[[str], None],
) -> Any:
    """Return an object a builder reports its phases to; None if the library has no such thing."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            stepped(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            finished(phase_name)

    return Monitor()


def open_engine(trt: Module, plan: bytes) -> tuple[Any, Any]:
    """Load an engine; a driver must have been found before.

    Returns
    -------
        The runtime, which must outlive the engine, and the engine.

    Raises
    ------
    BackendUnavailableError
        If the library refuses the plan.
    """
    log = message_log(trt)
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        said = log.errors[0] if log.errors else "no reason given"
        raise BackendUnavailableError(
            f"{trt.__name__} {trt.__version__} does not load the engine: {said}",
            hint="kspacesr-rt cache prune --all, and let it be built again",
        )
    return runtime, engine


def create_context(trt: Module, engine: Any, kernels: KernelCache) -> Any:
    """Return an execution context that can be captured in a CUDA graph.

    Parameters
    ----------
    trt
        What `load_runtime` returned.
    engine
        What `open_engine` returned.
    kernels
        Of this engine; only TensorRT-RTX has such.

    Notes
    -----
    It allocates nothing itself: `set_device_memory` must give it `device_memory_size_v2` bytes.
    TensorRT-RTX compiles kernels on the GPU and by default swaps better ones in later: a captured
    graph would keep the worse ones, and two runs might differ in their last bits. So it is told to
    compile them all at once.
    """
    user_managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not is_rtx(trt):
        return engine.create_execution_context(user_managed)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(user_managed)
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    config.dynamic_shapes_kernel_specialization_strategy = eager
    kernels.attach(config)
    return engine.create_execution_context(config)


def can_be_captured(trt: Module, context: Any, stream: int) -> bool:
    """Ask whether a context's work may be captured; TensorRT itself promises it."""
    return not is_rtx(trt) or bool(context.is_stream_capturable(stream))
