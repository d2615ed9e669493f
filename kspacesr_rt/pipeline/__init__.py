"""From a folder of DICOM to derived series: scan, read, infer, check, write.

A slice that fails is recorded and the others go on; nothing that was not asked for replaces what
was: not another backend, not another model, not an invented value.
"""

from kspacesr_rt.pipeline.local import infer
from kspacesr_rt.pipeline.options import InferOptions, RunProgress
from kspacesr_rt.pipeline.ray_engine import RayEngine, engine_named

__all__ = ["InferOptions", "RayEngine", "RunProgress", "engine_named", "infer"]
