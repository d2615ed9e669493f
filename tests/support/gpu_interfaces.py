"""What the native TensorRT backends call, by name and number of arguments.

Stand-ins allow nothing else, and `tests/gpu/standin/test_real_signatures.py` compares the list with
the real packages, which load on machines without a GPU.
"""

CUDA_CALLS = {
    "cudaSetDevice": 1,
    "cudaGetErrorString": 1,
    "cudaStreamCreateWithFlags": 1,
    "cudaStreamDestroy": 1,
    "cudaStreamQuery": 1,
    "cudaStreamSynchronize": 1,
    "cudaStreamBeginCapture": 2,
    "cudaStreamEndCapture": 1,
    "cudaMalloc": 1,
    "cudaFree": 1,
    "cudaMallocHost": 1,
    "cudaFreeHost": 1,
    "cudaMemcpyAsync": 5,
    "cudaGraphInstantiate": 2,
    "cudaGraphLaunch": 2,
    "cudaGraphDestroy": 1,
    "cudaGraphExecDestroy": 1,
}
CUDA_VALUES = (
    "cudaStreamNonBlocking",
    "cudaMemcpyKind.cudaMemcpyHostToDevice",
    "cudaMemcpyKind.cudaMemcpyDeviceToHost",
    "cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal",
)
TENSORRT_NAMES = {
    "Builder": (
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ),
    "INetworkDefinition": ("get_input", "get_layer", "num_layers"),
    "OnnxParser": ("parse", "num_errors", "get_error"),
    "ParserError": ("node_name", "node", "node_operator", "desc", "local_function_stack"),
    "IBuilderConfig": (
        "set_flag",
        "clear_flag",
        "set_memory_pool_limit",
        "progress_monitor",
        "builder_optimization_level",
        "profiling_verbosity",
        "add_optimization_profile",
    ),
    "ProfilingVerbosity": ("DETAILED",),
    "IOptimizationProfile": ("set_shape",),
    "ILogger": ("log", "Severity"),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": ("create_execution_context", "device_memory_size_v2"),
    "IExecutionContext": (
        "set_input_shape",
        "set_tensor_address",
        "set_device_memory",
        "execute_async_v3",
        "update_device_memory_size_for_shapes",
    ),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "BuilderFlag": ("TF32",),
    "MemoryPoolType": ("WORKSPACE",),
}
"""Of both libraries."""
OF_TENSORRT_10 = {
    "IBuilderConfig": ("create_timing_cache", "set_timing_cache"),
    "ITimingCache": ("serialize",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
}
OF_RTX = {
    "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability"),
    "BuilderFlag": ("REQUIRE_USER_ALLOCATION",),
    "ComputeCapability": ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121"),
    "ICudaEngine": ("create_runtime_config",),
    "IRuntimeConfig": (
        "set_execution_context_allocation_strategy",
        "create_runtime_cache",
        "set_runtime_cache",
        "dynamic_shapes_kernel_specialization_strategy",
    ),
    "IRuntimeCache": ("serialize", "deserialize"),
    "IExecutionContext": ("is_stream_capturable",),
    "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
}


def missing_names(module, *tables):
    """Return what a library lacks of what is listed."""
    return [
        f"{owner}.{name}"
        for table in tables
        for owner, names in table.items()
        for name in names
        if not hasattr(getattr(module, owner, None), name)
    ]
