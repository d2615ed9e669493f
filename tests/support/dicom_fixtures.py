"""Synthetic MR slices, and the places where real ones may be found."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, MRImageStorage
from repository import ROOT

from kspacesr_rt.dicom import Derivation, SourceSlice, read_slice
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.triage import examine

ZOO = ROOT.parent / "shared" / "data" / "dicom_zoo"

PATIENT = "SECRET^PATIENT"


def build(pixels=None, **attributes):
    """Return a valid MR data set; a keyword sets an attribute, None removes it."""
    if pixels is None:
        y, x = np.mgrid[:20, :24]
        pixels = (1000 * np.exp(-((y - 9) ** 2 + (x - 12) ** 2) / 18)).astype(np.uint16)
    ds = Dataset()
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = "1.2.3.4.5"
    ds.SeriesInstanceUID = "1.2.3.4"
    ds.StudyInstanceUID = "1.2.3"
    ds.FrameOfReferenceUID = "1.2.3.9"
    ds.PositionReferenceIndicator = ""
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.Modality = "MR"
    ds.Manufacturer = "SIEMENS"
    ds.SoftwareVersions = "syngo MR B17"
    ds.ReferringPhysicianName = ""
    ds.AccessionNumber = ""
    ds.StudyDate = "20200102"
    ds.StudyTime = "101112"
    ds.StudyID = "7"
    ds.PatientName = PATIENT
    ds.PatientID = "SECRET-ID"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "F"
    ds.SeriesDescription = "t2 axial"
    ds.SeriesNumber = 3
    ds.InstanceNumber = 5
    ds.AcquisitionNumber = 1
    ds.ScanningSequence = "SE"
    ds.SequenceVariant = "NONE"
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime = "3000"
    ds.EchoTime = "90"
    ds.EchoTrainLength = 1
    ds.SliceThickness = "4"
    ds.ImagePositionPatient = [-10.0, -20.0, 30.0]
    ds.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    ds.PixelSpacing = [0.9, 0.8]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored = ds.BitsAllocated if pixels.dtype.kind == "i" else min(12, ds.BitsAllocated)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.add_new("PixelData", "OW", pixels.tobytes())
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    if attributes.get("BitsStored") and "HighBit" not in attributes:
        ds.HighBit = ds.BitsStored - 1
    return ds


@pytest.fixture
def mr():
    """The builder."""
    return build


@pytest.fixture
def save(tmp_path):
    """A function that writes a data set into a folder and returns the path."""

    def write(ds, name="slice.dcm", *, syntax=ExplicitVRLittleEndian, folder=tmp_path / "in"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not hasattr(ds, "file_meta"):
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        dcmwrite(path, ds, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def load():
    """A function that reads a file all the way to its values."""

    def read(path):
        return read_slice(examine(read_header(path), path))

    return read


@pytest.fixture
def source():
    """A function that names a file as a slice without examining it."""

    def name(path):
        return SourceSlice(
            path=path,
            sop_class_uid=MRImageStorage,
            sop_instance_uid="1",
            series_instance_uid="1",
            study_instance_uid="1",
            matrix=(1, 1),
            order=(0.0,),
        )

    return name


@pytest.fixture
def run():
    """A function that returns a derivation, its fields overridden by keywords."""

    def make(**changed):
        fields = {
            "upscale": 2,
            "backend": "ort-cpu",
            "model": "x2-fast",
            "weights_sha256": "ab" * 32,
            "tool_version": "1.2.3",
        }
        return Derivation(**(fields | changed))

    return make


@pytest.fixture(scope="session")
def zoo():
    """The folder of real DICOM files of many vendors."""
    if not ZOO.is_dir():
        pytest.skip("no shared/data/dicom_zoo beside the repository")
    return ZOO


@pytest.fixture(scope="session")
def dciodvfy():
    """A function that returns the errors that dciodvfy finds in a file, values left out."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not on PATH: apt install dicom3tools")

    def errors(path):
        # Its exit status says nothing: it is 0 with a wrong VR.
        done = subprocess.run(
            ["dciodvfy", "-new", str(path)], capture_output=True, errors="replace", check=False
        )
        lines = (done.stdout + done.stderr).splitlines()
        return {re.sub(r"= ?<[^/][^>]*>", "", line) for line in lines if line.startswith("Error")}

    return errors
