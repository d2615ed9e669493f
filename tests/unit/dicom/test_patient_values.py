"""Free text in names of folders: what is a patient's is found, however it is spelled."""

from __future__ import annotations

import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from kspacesr_rt.dicom.patient_values import holds_patient_value

PROTOCOLS = (
    *(
        "FSE PD AXIAL OBL",
        "CLINICAL BRAIN",
        "fse",
        "T2 TSE",
        "t1_mpr_sag_p2",
        "t2_space_dark-fluid",
    ),
    *(
        "ep2d_diff_b1000_ADC",
        "T1 MPRAGE SAG 1mm iso",
        "3D FLAIR",
        "SWI_Images",
        "TOF_3D_multi-slab",
    ),
    *("DWI 3-scan-trace 4 TE", "AX T1 +C 5/1.5", "Ph1/Ax LAVA", "pd_tse_fs_cor 320", "localizer"),
    *("t2_haste_tra_mbh_320", "2.5mm gap 0.3", "SE 500/15", "GRE 02/10", "MP2RAGE_UNI_0.7"),
    *(
        "ADNI 3 T1",
        "Protokoll 12.3.7",
        "seq 1971",
        "sT1W_3D_TFE_32ch",
        "*tfl3d1_16ns",
        "epfid2d1_64",
    ),
    *("phase 100203", "MR 1.5T", "ax dti 71 dir", "cmrr_mbep2d_bold 020", "WIP 1203 b_2"),
)
PATIENTS = (
    ("Müller^Jürgen", "4711-0815", "19710203"),
    ("Haas^Noel", "PAT000123", "20020101"),
    ("Li^Bo^^Dr.^MD", "QX-77", "19991231"),
    ("Nguyen^Thi Mai^^Mr", "8812", "19800512"),
    ("Sørensen^Åshild", "", ""),
    ("Weiß^Maximilian", "RAD-2024-9", "19450930"),
)


def patient(name="", number="", date="", accession=""):
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName, made.PatientID, made.PatientBirthDate = name, number, date
    made.AccessionNumber = accession
    return made


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("Müller^Jürgen", text) for text in ("T1 Mueller", "T1 Muller", "t1_MÜLLER", "Juergen")),
        *(("Mueller^Juergen", text) for text in ("T1 Müller", "T1 Muller", "jurgen fse")),
        *(("Muller^Jurgen", text) for text in ("T1 Mueller", "T1 Müller")),
        ("Weiß^A", "Weiss kopf"),
        ("Weiss^A", "kopf weiß"),
        ("Sørensen^Åse", "Soerensen"),
        ("Sørensen^Åse", "sorensen"),
        ("Sørensen^Åse", "T2 Aase"),
        ("Aase^Soerensen", "Åse"),
        ("Núñez^José", "jose nunez"),
        ("Nunez^Jose", "Núñez"),
        ("Łukasz^B", "lukasz"),
        ("Kim^Bo", "T1 bo"),
        ("Li^Wei", "Li_T2"),
        ("Müller-Lüdenscheidt^Eva", "brain of Luedenscheidt"),
        ("O'Brien^Pat", "T1 OBrien"),
        ("Weber,Karl", "weber"),
        ("Yamada^Tarou=山田^太郎", "yamada"),
        ("Mu\u0308ller^A", "mueller"),
    ],
)
def test_a_name_is_found_in_any_spelling(name, text):
    """Technicians type names without umlauts where consoles have none, and the other way round."""
    assert holds_patient_value(text, patient(name))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "03.02.1971",
            "02/03/1971",
            "3.2.71",
            "710203",
            "030271",
            "020371",
            "19710203",
            "3-2-1971",
        ),
        *("03-FEB-1971", "Feb 3 1971", "3. Februar 1971", "February 3rd, 1971", "1971-02-03"),
        *("03021971", "1971 3 2", "3feb71", "03 fév 1971", "geb.03.02.71", "71/2/3", "1971_0203"),
    ],
)
def test_a_birth_date_is_found_in_any_order(text):
    """It says who somebody is almost as well as a name."""
    for said in (text, f"T1 {text} sag"):
        assert holds_patient_value(said, patient(date="19710203"))
    assert not holds_patient_value(text, patient(date="19720415"))


@pytest.mark.parametrize("who", PATIENTS, ids=lambda who: who[0])
@pytest.mark.parametrize("text", PROTOCOLS)
def test_names_of_protocols_are_nobodys(text, who):
    """A folder that is called `none` helps nobody."""
    assert not holds_patient_value(text, patient(*who))


def test_titles_and_short_words_are_no_names():
    """`MR` is the modality, and a part of a name is none of two letters within a word."""
    assert not holds_patient_value("MR head", patient("Kim^Ann^^MR"))
    assert not holds_patient_value("oblique flair", patient("Li^Bo"))


@pytest.mark.parametrize("text", ["id 77-Q-1234", "acc 99812", "ACC99812"])
def test_numbers_are_found_as_before(text):
    """With and without what separates their digits."""
    assert holds_patient_value(text, patient(number="77Q1234", accession="99812"))


def test_a_date_that_is_none_harms_nothing():
    """Headers hold what was typed."""
    for date in ("19711399", "00000000", "1971"):
        made = patient()
        made["PatientBirthDate"] = DataElement("PatientBirthDate", "DA", date, validation_mode=0)
        assert not holds_patient_value("T2 TSE", made)
