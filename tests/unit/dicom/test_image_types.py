"""Which pictures are maps by their Image Type, and that no ordinary series is taken for one."""

import dataclasses

import enhanced_cases as cases
import pytest

from kspacesr_rt.dicom.attributes import image_type
from kspacesr_rt.dicom.image_types import shows_map, shows_phase
from kspacesr_rt.dicom.scan import LeftOut, examine_file
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom

DERIVED, ORIGINAL = r"DERIVED\PRIMARY", r"ORIGINAL\PRIMARY"
MAPS = [
    # perfusion
    *(rf"{DERIVED}\PERFUSION\{word}" for word in ("RELCBF", "RELCBV", "RELMTT", "GBP", "PBP")),
    *(rf"{DERIVED}\PERFUSION\{word}" for word in ("RELTTP", "TTP", "MTT", "CBF", "CBV", "RELCCBV")),
    *(
        rf"{DERIVED}\M\{word}\ND"
        for word in ("TMAX", "TMAX BASIC", "RCBVCORR", "RLEAKAGE", "KTRANS")
    ),
    *(rf"{DERIVED}\{word}\NONE" for word in ("RCBF", "RCBV", "MAXRELENH", "BREVENH", "AREACURV")),
    rf"{DERIVED}\OTHER\WASH_IN",
    rf"{DERIVED}\M\WASHOUT",
    rf"{DERIVED}\M\ND\NORM\SUB\MIPT",
    # diffusion
    *(
        rf"{DERIVED}\DIFFUSION\{word}"
        for word in ("ADC", "EADC", "FA", "COLFA", "CALC_BVALUE", "EXP")
    ),
    rf"{DERIVED}\DIFFUSION\ADC\NORM\DIS2D",
    rf"{DERIVED}\DIFFUSION_ANISO\NONE",
    rf"{ORIGINAL}\DIFFUSION\ADC_UNSPECIFIED",
    rf"{ORIGINAL}\ADC_MAP",
    # fat, iron, relaxation, susceptibility, stiffness
    *(
        rf"{DERIVED}\M\{word}"
        for word in ("FF", "R2_STAR", "R2*", "R2STAR", "T2_STAR", "PDFF", "R2")
    ),
    rf"{DERIVED}\DIXON\FAT_FRACTION",
    rf"{DERIVED}\FATFRAC\NONE",
    rf"{DERIVED}\T1 MAP\T1\UNSPECIFIED",
    rf"{DERIVED}\M\T1MAP",
    rf"{DERIVED}\QMAP\T2",
    rf"{DERIVED}\M\QSM\ND",
    rf"{DERIVED}\STIFFNESS\NONE",
    rf"{ORIGINAL}\FIELDMAP",
    r"DERIVED\PRIMARY\T1\SYNTHETIC",
    # statistics
    *(
        rf"{DERIVED}\EPI\{word}"
        for word in ("TTEST", "T_TEST", "T-TEST", "ZSCORE", "STD_DEVIATION")
    ),
    # projections, reformats, pictures of a console
    *(rf"{DERIVED}\{word}\M" for word in ("MNIP", "MIP", "MINIP", "MIN_IP", "PROJECTION IMAGE")),
    *(
        rf"{DERIVED}\{word}"
        for word in ("MIP_SAG", "MIP_COR", "MIP_TRA", "CSA MIP THIN", "MPR THICK")
    ),
    rf"{ORIGINAL}\M\MIP_RADIAL",
    r"DERIVED\SECONDARY\REFORMATTED\AVERAGE",
    r"DERIVED\SECONDARY\MPR\CSA MPR\\CSAPARALLEL\M\ND",
    r"DERIVED\SECONDARY\3D\VOLREN",
    r"DERIVED\SECONDARY\VXTL STATE",
    r"DERIVED\SECONDARY\COLLAGE",
    *(
        rf"{DERIVED}\{word}"
        for word in ("B0", "CONFIDENCE", "CURVED", "GRAPH", "T2_STAR MAP", "M_MODE", "QUALITY")
    ),
    *(rf"{DERIVED}\M\{word}" for word in ("B0", "CONFIDENCE", "CURVED", "GRAPH", "T2*", "B0_MAP")),
    rf"{ORIGINAL}\M\CONFIDENCE_MAP",
    r"DERIVED\SECONDARY\CURVED\MPR",
    rf"{DERIVED}\DIFFUSION\AD",
    rf"{DERIVED}\PERFUSION\LEAKAGE",
    rf"{DERIVED}\M\T1_VALUES",
    r"DERIVED\SECONDARY\SCREEN SAVE",
    r"DERIVED\SECONDARY\SCREEN_CAPTURE",
    r"DERIVED\SECONDARY\PROCESSED",
    r"DERIVED\SECONDARY\OTHER\CSA REPORT",
    r"DERIVED\SECONDARY\POSDISP\M\ND",
    # differences
    rf"{DERIVED}\M\ND\SUB",
    rf"{DERIVED}\SUBTRACTED",
    rf"{DERIVED}\OTHER\DIV",
]
IMAGES = [
    *(
        rf"{ORIGINAL}\{word}"
        for word in ("M", "MAGNITUDE", "OTHER", "MPR", "LOCALIZER", "M_SE\\M\\SE")
    ),
    rf"{ORIGINAL}\M\NORM\DIS2D\FM\FIL",
    rf"{ORIGINAL}\M\ND\NORM\MFSPLIT",
    rf"{ORIGINAL}\M\NORM\DIS3D\DIS2D\MFSPLIT\SH5_1\FM4_1",
    rf"{ORIGINAL}\M_FFE\M\FFE",
    rf"{ORIGINAL}\SW_M_FFE\M\FFE",
    rf"{ORIGINAL}\T2\NONE",
    rf"{ORIGINAL}\T2_STAR\NONE",
    rf"{DERIVED}\T2_STAR\RESAMPLED",
    rf"{DERIVED}\T2_STAR\MEAN",
    rf"{ORIGINAL}\T2_STAR",
    rf"{ORIGINAL}\M\T2_STAR",
    rf"{ORIGINAL}\M\T2*",
    rf"{ORIGINAL}\B0\NONE",
    rf"{DERIVED}\DIFFUSION\B0",
    rf"{ORIGINAL}\PROTON_DENSITY\NONE",
    rf"{ORIGINAL}\DIFFUSION\NONE\ND\NORM",
    rf"{DERIVED}\DIFFUSION\TRACEW\ND\NORM",
    rf"{DERIVED}\DIFFUSION\COMBINED",
    rf"{ORIGINAL}\PERFUSION\NONE",
    rf"{ORIGINAL}\ASL\CONTROL",
    rf"{ORIGINAL}\ASL\LABEL",
    *(
        rf"{DERIVED}\DIXON\{word}"
        for word in ("WATER", "FAT", "IN_PHASE", "OUT_PHASE", "OPP_PHASE")
    ),
    *(rf"{DERIVED}\M\{word}" for word in ("W", "F", "IP", "OP", "MEAN", "ADD", "MOCO", "COMPOSED")),
    rf"{ORIGINAL}\FMRI\NONE\ND",
    rf"{ORIGINAL}\EPI\NONE",
    rf"{ORIGINAL}\TOF\NONE",
    rf"{ORIGINAL}\CINE\RETRO\M",
    rf"{ORIGINAL}\M\SWI\NORM",
    rf"{ORIGINAL}\M\VE11\FAST\MASKED\FALSE",
    "ORIGINAL\\PRIMARY",
    "ORIGINAL",
    "",
]
PHASES = [
    *(
        rf"{ORIGINAL}\{word}"
        for word in ("P", "R", "I", "PHASE", "REAL", "VELOCITY", "P_FFE", "R_IR")
    ),
    rf"{ORIGINAL}\SW_P_FFE\FFE",
    rf"{ORIGINAL}\M_PCA\VELOCITY MAP\PCA",
]


def words(text, mr):
    ds = mr()
    with quiet_pydicom():
        ds.ImageType = text.split("\\") if text else None
    return image_type(ds)


@pytest.mark.parametrize("text", MAPS)
def test_a_computed_picture_is_a_map(text, mr):
    """Relative blood flow or a fat fraction is no magnitude of any k-space."""
    assert shows_map(words(text, mr))
    assert shows_map(words(text, mr), multi_frame=True)


@pytest.mark.parametrize("text", IMAGES)
def test_an_ordinary_image_is_none(text, mr):
    """A series that is lost is worse than a map that is processed."""
    found = words(text, mr)
    assert not shows_map(found)
    assert not shows_map(found, multi_frame=True)
    assert not shows_phase(found)


@pytest.mark.parametrize("word", ["T2_STAR", "T2*", "T2STAR", "T2", "T1"])
@pytest.mark.parametrize("behind", ["", r"\NONE", r"\ND\NORM"])
def test_a_derived_contrast_is_a_map_in_classic_mr_alone(word, behind, mr):
    """Classic value 3 is the kind of picture; in Enhanced MR it is the weighting (C.8.13)."""
    assert shows_map(words(rf"{DERIVED}\{word}{behind}", mr))
    assert not shows_map(words(rf"{DERIVED}\{word}{behind}", mr), multi_frame=True)
    assert not shows_map(words(rf"{ORIGINAL}\{word}{behind}", mr))


@pytest.mark.parametrize("text", PHASES)
def test_phase_and_its_kin_are_phase(text, mr):
    """Philips marks susceptibility-weighted phase with a prefix."""
    assert shows_phase(words(text, mr))


@pytest.mark.parametrize("text", MAPS[::7])
def test_a_map_is_left_out_until_it_is_asked_for(text, mr, save):
    """Through the whole of triage, from a file."""
    path = save(mr(ImageType=text.split("\\")))
    left_out = examine_file(path)
    assert isinstance(left_out, LeftOut)
    assert (left_out.outcome, left_out.reason) == ("skipped", "derived-map")
    assert not isinstance(examine_file(path, include_derived=True), LeftOut)


def test_lower_case_and_blanks_are_read_alike(mr):
    """Some consoles write words as their users do."""
    assert shows_map(words(r"DERIVED\PRIMARY\perfusion\ relCBF ", mr))


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (rf"{DERIVED}\T2_STAR\NONE", True),
        (rf"{DERIVED}\T2_STAR\T2_STAR", False),
        (rf"{ORIGINAL}\T2_STAR\NONE", True),
        (rf"{DERIVED}\B0\NONE", False),
    ],
)
def test_frames_are_asked_by_the_terms_of_enhanced_mr(text, taken, tmp_path):
    """The weighting of a derived frame is no reason to leave its file out; a map is."""
    frames = [
        dataclasses.replace(frame, frame_type=tuple(text.split("\\")))
        for frame in cases.sample_frames(2)
    ]
    found = examine_file(cases.save(cases.build(frames), tmp_path / "e.dcm"))
    assert (found.reason == "derived-map" if isinstance(found, LeftOut) else "") != taken
