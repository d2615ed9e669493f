"""MRI super-resolution in k-space: run, export and measure models on folders of DICOM.

Research software: super-resolved detail is predicted, not measured.
"""

from kspacesr_rt import telemetry
from kspacesr_rt._version import __version__

telemetry.silence()  # before anything imports a runtime

__all__ = ["__version__"]
