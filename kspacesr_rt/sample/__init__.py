"""A shipped proton-density series (20 slices, 256 x 256) to try the tool on; see LICENSE."""

from importlib import resources
from pathlib import Path


def sample_folder() -> Path:
    """Return the folder that holds the sample's DICOM files."""
    return Path(str(resources.files("kspacesr_rt.sample"))) / "ge_pd"
