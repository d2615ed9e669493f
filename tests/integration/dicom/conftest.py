"""Synthetic MR slices, and the places where real ones may be found."""

from dicom_fixtures import dciodvfy, load, mr, run, save, source, zoo
