"""A classic series, slice by slice, in any orientation."""

import copy
from pathlib import Path

import numpy as np
import pydicom

from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.sample import sample_folder

AXIAL = (1, 0, 0, 0, 1, 0)


def write_series(folder, orientation=AXIAL, *, step=3.0, places=range(4), times=1):
    """Write classic slices, each with its own texture; an odd and an even axis."""
    base = pydicom.dcmread(sorted(Path(sample_folder()).glob("*.dcm"))[0])
    normal = np.cross(orientation[:3], orientation[3:])
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for time in range(times):
        for place in places:
            number += 1
            ds = copy.deepcopy(base)
            ds.SOPInstanceUID = stable_uid("test", folder.name, number)
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.SeriesInstanceUID = stable_uid("test series", folder.name)
            ds.InstanceNumber = number
            ds.TemporalPositionIdentifier = time + 1
            position = np.array([-50.0, -40.0, 10.0]) + normal * step * place
            ds.ImagePositionPatient = [f"{value:.5f}" for value in position]
            ds.ImageOrientationPatient = [f"{value:.6f}" for value in orientation]
            ds.SliceLocation = f"{float(position @ normal):.4f}"
            ds.PixelSpacing, ds.SliceThickness = ["1.2", "0.9"], "3"
            ds.SpacingBetweenSlices = "3"
            ds.Rows, ds.Columns = 19, 24
            ds.PixelData = rng.integers(0, 1000, (19, 24)).astype(np.uint16).tobytes()
            ds.save_as(folder / f"{number:03}.dcm")
    return folder
