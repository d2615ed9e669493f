from kspacesr_rt import bench as bench
from kspacesr_rt import errors as errors
from kspacesr_rt import export as export
from kspacesr_rt import layers as layers
from kspacesr_rt import train as train
from kspacesr_rt._version import __version__ as __version__
from kspacesr_rt.conversion.adoption import adopt_model as adopt_model
from kspacesr_rt.conversion.convert import convert_model as convert_model
from kspacesr_rt.export.exporter import export_model as export_model
from kspacesr_rt.export.module_export import export_module as export_module
from kspacesr_rt.pipeline.array_model import Model as Model
from kspacesr_rt.pipeline.array_model import load as load
from kspacesr_rt.pipeline.inference import infer as infer
from kspacesr_rt.pipeline.options import InferOptions as InferOptions
from kspacesr_rt.pipeline.report import RunReport as RunReport
from kspacesr_rt.pipeline.session import Session as Session
from kspacesr_rt.runtime.selection import verify as verify

__all__ = [
    "InferOptions",
    "Model",
    "RunReport",
    "Session",
    "__version__",
    "adopt_model",
    "bench",
    "convert_model",
    "errors",
    "export",
    "export_model",
    "export_module",
    "infer",
    "layers",
    "load",
    "train",
    "verify",
]
