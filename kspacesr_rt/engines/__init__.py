"""TensorRT engines: built without a GPU where that is possible, tied to what they were built for.

`kspacesr_rt.engines.build.build_engine` writes an engine with its sidecar,
`kspacesr_rt.engines.sidecar.load_engine` reads the two back, and
`kspacesr_rt.engines.cache.EngineCache` keeps those that backends build when they are opened.
Nothing is imported here: `kspacesr-rt backends` asks `kspacesr_rt.engines.driver` for a GPU and
must not load ONNX for it.
"""
