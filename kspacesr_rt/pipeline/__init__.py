"""From a folder of DICOM to derived series: scan, read, infer, check, write.

A slice that fails is recorded and the others go on; nothing that was not asked for replaces what
was: not another backend, not another model, not an invented value.
"""

from kspacesr_rt.pipeline.inference import infer
from kspacesr_rt.pipeline.options import InferOptions, RunProgress
from kspacesr_rt.pipeline.ray.executor import RayExecutor, executor_named
from kspacesr_rt.pipeline.session import Session

__all__ = ["InferOptions", "RayExecutor", "RunProgress", "Session", "executor_named", "infer"]
