"""TensorRT engines: built without a GPU where that is possible, tied to what they were built for.

`kspacesr_rt.runtime.tensorrt.build.build_engine` writes an engine with its sidecar,
`kspacesr_rt.runtime.tensorrt.sidecar.load_engine` reads the two back, and
`kspacesr_rt.runtime.tensorrt.cache.EngineCache` keeps those that backends build when they are
opened. Nothing is imported here: `kspacesr-rt backends` asks `kspacesr_rt.system.gpu_driver` for a
GPU and must not load ONNX for it.
"""
