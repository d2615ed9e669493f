"""What training is fed: patients kept apart, empty rims found, and a cache that is right.

Reading of fastMRI is in `test_fastmri`; the other formats, and pairs, are in `test_training`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from repository import ROOT

from kspacesr_rt import kspace
from kspacesr_rt.errors import InputError, OutputError, TrainingDataError
from kspacesr_rt.kspace import acquired_band
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.train import volumes
from kspacesr_rt.train.augmentation import Augmentation
from kspacesr_rt.train.pairs import (
    PairSampler,
    TrainingSeries,
    describe,
    load_training_series,
    prepared_versions,
)
from kspacesr_rt.train.patients import hashed_identity, patient_of_file, split_by_patient
from kspacesr_rt.train.volumes import Volume, measured_band, read_volumes

SHARED = ROOT.parent / "shared" / "data" / "train"
AS_IS = Augmentation(matrix_shrink=1.0, noise_share=0.0)


def phantoms(n: int = 3, matrix: tuple[int, int] = (96, 88), first: int = 0) -> np.ndarray:
    return np.stack([brain_phantom(matrix, seed=first + seed) for seed in range(n)])


def write_h5(path: Path, attributes: dict[str, object] | None = None, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
    return path


# --- patients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (("openms_patient01_study1_T2W.nii.gz", "openms_patient01_study2_FLAIR.nii.gz"), True),
        (("openms_patient01_study1_T2W.nii.gz", "openms_patient03_study1_T2W.nii.gz"), False),
        (("sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T2w.nii"), True),
        (("sub-01_T1w.nii.gz", "sub-010_T1w.nii.gz"), False),
        (("Patient_7_a.npy", "patient_7_b.npy"), True),
        (("subj-4.npy", "subject4.npy"), False),
        (("pat12_x.npy", "sub-9/anat/pat12_y.npy"), True),
        (("sub-9/anat/T1.nii", "sub-9/anat/T2.nii"), True),
        (("sub-9/anat/T1.nii", "sub-8/anat/T1.nii"), False),
        (("sub-9/T1.nii", "sub-9/subj3/T1.nii"), True),
        (("a/knee.nii.gz", "b/knee.npy"), True),
        (("knee1.nii.gz", "knee2.nii.gz"), False),
    ],
)
def test_file_names_tell_patients_apart(tmp_path, names, same):
    """Two sessions of one person are one patient, whatever the folders they lie in."""
    first, second = (patient_of_file(tmp_path / name, tmp_path) for name in names)
    assert (first == second) == same


def test_a_root_that_is_one_patients_folder_names_the_patient():
    """``train data/sub-01 data/sub-02``: T1 and T2 of one person are not two people."""
    root = Path("data/sub-01")
    t1, t2 = (patient_of_file(root / name, root) for name in ("T1.nii", "T2.nii"))
    assert t1 == t2 == patient_of_file(root / "T1.nii", root / "T1.nii")
    assert t1 != patient_of_file(Path("data/sub-02/T1.nii"), Path("data/sub-02"))
    # Folders above what the user named are not asked: they may be anybody's.
    above = Path("home/patient7/data")
    assert patient_of_file(above / "knee.nii", above) == hashed_identity("knee")


def test_fastmri_patients_are_known_by_their_attribute(tmp_path):
    """Its file names say nothing; several files are of one patient."""
    for name, identifier in (("file1", "SECRET"), ("file2", np.bytes_("SECRET")), ("file3", " ")):
        write_h5(
            tmp_path / f"{name}.h5", {"patient_id": identifier}, reconstruction_rss=phantoms(2)
        )
    one, two, three = read_volumes(tmp_path)
    assert one.patient == two.patient == hashed_identity("SECRET")
    assert three.patient == hashed_identity("file3")
    assert not any("SECRET" in repr(volume) for volume in (one, two, three))


def copy_dicom(folder: Path, **attributes: str | None) -> None:
    """Copy two sample slices as a series, and study, of their own."""
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(sample_folder().glob("*.dcm"))[8:10]):
        dataset = dcmread(path)
        dataset.SeriesInstanceUID = f"1.2.{int(hashed_identity(folder.name)[:12], 16)}"
        dataset.StudyInstanceUID = f"{dataset.SeriesInstanceUID}.1"
        dataset.SOPInstanceUID = f"{dataset.SeriesInstanceUID}.{number + 2}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / f"{number}.dcm")


def test_dicom_patients_are_known_by_their_id_and_else_by_the_study(tmp_path):
    """Two studies of one ID are one patient; without IDs, no two studies are taken for one."""
    for name, identifier in (
        ("a", "SECRET"),
        ("b", "SECRET"),
        ("c", "OTHER"),
        ("d", ""),
        ("e", ""),
    ):
        copy_dicom(tmp_path / name, PatientID=identifier)
    found = list(read_volumes(tmp_path))
    assert len(found) == 5
    counts = sorted([one.patient for one in found].count(patient) for patient in
                    {one.patient for one in found})  # fmt: skip
    assert counts == [1, 1, 1, 2]
    assert hashed_identity("SECRET") in {one.patient for one in found}
    assert not any("SECRET" in repr(one) for one in found)


def test_planes_versions_and_crops_keep_their_patient():
    """A sagittal plane of a patient who is held out would be a leak like any other."""
    rng = np.random.default_rng(0)
    slices = (0.5 + 0.5 * rng.random((96, 96, 96))).astype(np.float32)
    volume = Volume(name="v", slices=slices, spacing_mm=(1.0, 1.0, 1.0), patient="p")
    for plane in volumes.training_planes(volume):
        assert plane.patient == "p"
        assert prepared_versions(plane)[0].patient == "p"
    assert volumes.supported(volume, (0.6, 0.8)).patient == "p"


def series_of(patients: str) -> list[TrainingSeries]:
    one = np.zeros((1, 64, 64), np.float16)
    return [
        TrainingSeries(name=f"{index}", slices=one, patient=patient)
        for index, patient in enumerate(patients)
    ]


@given(
    st.text("abcdefghij", min_size=2, max_size=40).filter(lambda text: len(set(text)) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_a_split_never_has_one_patient_on_both_sides(patients, share, state, shuffler):
    """Whole patients, at least one each side, about the share, the same in any reading order."""
    series = series_of(patients)
    training, held = split_by_patient(series, share=share, random_state=state)
    trained, judged = ({one.patient for one in side} for side in (training, held))
    assert trained
    assert judged
    assert not trained & judged
    assert [one for one in series if one in training or one in held] == series
    assert len(training) + len(held) == len(series)
    n = len(set(patients))
    assert len(judged) == min(max(1, round(share * n)), n - 1)
    shuffled = list(series)
    shuffler.shuffle(shuffled)
    again = split_by_patient(shuffled, share=share, random_state=state)
    assert [{one.name for one in side} for side in again] == [
        {one.name for one in side} for side in (training, held)
    ]


def test_another_random_state_holds_out_other_patients():
    """One split is one draw: its luck has to be visible."""
    series = series_of("abcdefghij")
    held = [
        "".join(one.patient for one in split_by_patient(series, share=0.3, random_state=state)[1])
        for state in range(6)
    ]
    assert len(set(held)) > 3


@pytest.mark.parametrize("patients", ["a", "aaaa", ""])
def test_one_patient_cannot_be_split(patients):
    """Splitting the patient's slices instead would flatter every figure."""
    with pytest.raises(TrainingDataError, match="none can be held out") as caught:
        split_by_patient(series_of(patients), share=0.5, random_state=0)
    assert caught.value.hint == (
        "name folders to validate on, or tell patients apart in the names: sub-01_T1.nii"
    )


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    """All or nothing is no split."""
    with pytest.raises(TrainingDataError, match="cannot hold out a share of"):
        split_by_patient(series_of("ab"), share=share, random_state=0)


# --- the measured support -------------------------------------------------------------------------


@functools.cache
def fine_kspace(n: int) -> np.ndarray:
    return kspace.fft2c(phantoms(4, (n, n)).astype(float))


def interpolated(
    factor: float, *, mask: float = 0.0, filtered: bool = False, n: int = 256
) -> tuple[np.ndarray, float]:
    """Make magnitude slices as a scanner stores them, and the share of k-space it measured.

    Noise, a Fermi filter, zeros around it, the magnitude; then the background is cut out.
    """
    rng = np.random.default_rng(0)
    inner = 2 * round(n / factor / 2)
    spectrum = kspace.centre_crop(fine_kspace(512), (inner, inner)) * inner / 512
    noise = rng.standard_normal((2, 4, inner, inner))
    spectrum = spectrum + 0.004 * (noise[0] + 1j * noise[1])
    if filtered:
        edge = np.abs(np.arange(inner) - inner // 2) / (inner / 2)
        fermi = 1 / (1 + np.exp((edge - 0.9) / 0.05))
        spectrum = spectrum * fermi[:, None] * fermi
    image = np.abs(kspace.ifft2c(kspace.centre_fill(spectrum, (n, n))))
    return np.where(image > mask * image.max(), image, 0.0).astype(np.float32), inner / n


@pytest.mark.parametrize(
    ("factor", "mask", "filtered"),
    [
        (1.25, 0.0, False), (1.25, 0.06, False), (1.5, 0.0, False), (1.5, 0.06, False),
        (1.5, 0.03, True), (2.0, 0.0, False), (2.0, 0.06, False),
    ],
)  # fmt: skip
def test_interpolation_is_found_although_ringing_and_masks_fill_the_rim(
    monkeypatch, factor, mask, filtered
):
    """The whole slices' spectrum is fooled; that of the inside of the tissue is not."""
    slices, share = interpolated(factor, mask=mask, filtered=filtered)
    rows, columns = measured_band(slices)
    assert share - 0.02 <= rows <= share + 0.06
    assert share - 0.02 <= columns <= share + 0.11
    monkeypatch.setattr(acquired_band, "_cliff", lambda profile: None)
    assert measured_band(slices)[0] > share + 0.14


def test_the_inside_is_asked_only_beyond_the_foot_of_its_cliff(monkeypatch):
    """Where both spectra agree, the sharper one decides: the window blurs that of the inside."""
    slices, _ = interpolated(1.25)
    found = []
    for cliff in (None, (0.55, 0.95), (0.55, 0.8)):
        monkeypatch.setattr(acquired_band, "_cliff", lambda profile, cliff=cliff: cliff)
        found.append(measured_band(slices)[1])
    assert 0.8 < found[0] < 0.95
    assert found[1:] == [found[0], 0.55]


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("mask", [0.0, 0.03, 0.1])
def test_full_kspace_stays_full_under_filter_and_mask(mask, filtered):
    """The rim of a series that was not interpolated is exactly what the network is to learn."""
    slices, _ = interpolated(1.0, mask=mask, filtered=filtered)
    # The filter takes 18 dB off the very last sample, which may therefore count as ended.
    assert min(measured_band(slices)) >= (0.95 if filtered else 1.0)


@pytest.mark.parametrize("matrix", [(16, 300), (31, 33), (64, 64), (1, 64)])
def test_small_and_odd_matrices_have_a_support(matrix):
    """Too few samples to tell, or no inside at all: nothing is cropped on a guess."""
    rng = np.random.default_rng(0)
    shares = measured_band(rng.random((3, *matrix)).astype(np.float32))
    assert shares == (1.0, 1.0)
    assert measured_band(np.zeros((2, *matrix), np.float32)) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("openms_patient01_study1_FLAIR.nii.gz", (0.64, 0.70)),
        ("openms_patient01_study1_T2W.nii.gz", (0.67, 0.73)),
        ("openms_patient20_study2_T1W.nii.gz", (0.76, 0.85)),
        ("uih134434_T1.nii.gz", (1.0, 1.0)),
    ],
)
def test_real_series_have_the_support_that_their_spectra_show(name, rows):
    """Read off their profiles by eye: clinical 2-D series are interpolated, the volunteers' not."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no shared/data/train/{name} beside the repository")
    for plane in volumes.training_planes(next(iter(read_volumes(path)))):
        low, high = rows
        assert low <= volumes.band_of(plane)[0] <= high


# --- crop, keep or mix ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Make one interpolated and one fully measured series, of two patients."""
    root = tmp_path_factory.mktemp("data")
    np.save(root / "patient1_a.npy", interpolated(1.5, n=160)[0] * 700)
    noise = 0.02 * np.random.default_rng(0).standard_normal((6, 128, 112))
    np.save(root / "patient2_b.npy", np.abs(phantoms(6, (128, 112)) + noise).astype(np.float32))
    return root


def test_rims_are_cropped_kept_or_both(data):
    """``mix`` holds what ``crop`` and ``keep`` hold; a series without an empty rim appears once."""
    crop, keep, mix = (load_training_series([data], rim=rim) for rim in ("crop", "keep", "mix"))
    assert [one.cropped for one in crop] == [True, False]
    assert [one.cropped for one in keep] == [False, False]
    assert [(one.name, one.cropped) for one in mix] == [
        ("patient1_a.npy", True), ("patient1_a.npy", False), ("patient2_b.npy", False),
    ]  # fmt: skip
    assert [one.weight for one in mix] == [0.5, 0.5, 1.0]
    for ours, other in zip(mix, (crop[0], keep[0], crop[1]), strict=True):
        assert np.array_equal(ours.slices, other.slices)
        assert ours.band == other.band
    assert crop[0].slices.shape[1] < 0.75 * keep[0].slices.shape[1]
    assert all(0.65 < share < 0.8 for share in crop[0].band)
    assert crop[1].band == (1.0, 1.0)
    assert np.array_equal(crop[1].slices, keep[1].slices)
    assert load_training_series([data])[0].slices.shape == crop[0].slices.shape
    with pytest.raises(InputError, match="rim 'trim' is not one of crop, keep, mix"):
        load_training_series([data], rim="trim")


def test_two_versions_of_a_series_weigh_what_one_weighs(data):
    """Otherwise ``mix`` would also turn the data set towards interpolated series."""
    mix = load_training_series([data], rim="mix")
    sampler = PairSampler(mix, upscale=2, batch=1, augmentation=AS_IS, rng=np.random.default_rng(0))
    assert sampler.n_slices == 4 + 6
    drawn = {one.slices.shape[1:]: 0 for one in mix}
    for _ in range(900):
        shape = sampler.draw()[1].shape[2:]
        drawn[shape if shape in drawn else shape[::-1]] += 1
    cropped, stored, full = drawn.values()
    total = 0.5 * 2 + 0.5 * 2 + np.sqrt(6)
    for count, weight in ((cropped, 1.0), (stored, 1.0), (full, np.sqrt(6))):
        expected = 900 * weight / total
        assert abs(count - expected) < 4 * np.sqrt(expected)


def test_the_log_says_what_is_trained_on(data):
    """A support of 0.5 on all series is a mistake that only a table shows."""
    lines = describe(load_training_series([data], rim="mix")).splitlines()
    assert lines[0].split() == ["series", "slices", "matrix", "support", "y,", "x", "k-space"]
    assert [line.split()[0] for line in lines[1:4]] == [
        "patient1_a.npy", "patient1_a.npy", "patient2_b.npy",
    ]  # fmt: skip
    assert lines[1].endswith("cropped")
    assert lines[2].endswith("as stored")
    assert " 1.00, 1.00  as stored" in lines[3]
    assert lines[-1] == (
        "in all: series 2, patients 2, slices 10; 1 used twice, cropped and as stored"
    )
    assert max(map(len, lines[:-1])) <= 80
    unnamed = describe(load_training_series([data], rim="mix"), show_names=False).splitlines()
    assert [line.split()[1] for line in unnamed[1:4]] == ["1", "1", "2"]


# --- the cache ------------------------------------------------------------------------------------


def folder_of_every_kind(root: Path) -> Path:
    """Make a folder of every kind, with names that must not leave it."""
    root.mkdir()
    np.save(root / "SECRET_patient1.npy", phantoms(2, (80, 96)) * 700)
    block = np.repeat(phantoms(4, (80, 80)), 20, axis=0).transpose(1, 2, 0)
    nibabel.save(nibabel.Nifti1Image(block, np.eye(4)), root / "SECRET_patient2.nii")
    write_h5(root / "SECRET.h5", {"patient_id": "SECRET"}, reconstruction_rss=phantoms(2))
    np.save(root / "SECRET_air.npy", np.zeros((2, 80, 80)))
    copy_dicom(root / "SECRET", PatientID="SECRET", PatientName="SECRET^A")
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    return folder_of_every_kind(tmp_path / "data")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Path, list[TrainingSeries]]:
    """Make a folder and its cache, read-only, and say what is in both."""
    root = tmp_path_factory.mktemp("prepared")
    folder, cache = folder_of_every_kind(root / "data"), root / "cache"
    return folder, cache, load_training_series([folder], cache=cache)


def same(first: list[TrainingSeries], second: list[TrainingSeries]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(one.slices, other.slices)
        and one.slices.dtype == other.slices.dtype
        and dataclasses.replace(one, slices=None) == dataclasses.replace(other, slices=None)
        for one, other in zip(first, second, strict=True)
    )


def forbid_reading(monkeypatch) -> None:
    """Make every attempt to decode an image fail."""

    def fail(*_):
        raise AssertionError("something was decoded")

    monkeypatch.setattr(volumes, "READERS", dict.fromkeys(volumes.READERS, fail))
    monkeypatch.setattr(volumes, "scan_folder", fail)


@pytest.mark.parametrize("rim", ["crop", "mix"])
def test_a_second_load_decodes_nothing_and_gives_the_same(folder, tmp_path, monkeypatch, rim):
    """Bit for bit, names and patients included; arrays are mapped, so processes share them."""
    plain = load_training_series([folder], rim=rim)
    # One array, three planes of the NIfTI volume, one fastMRI file and one DICOM series.
    assert len({one.name for one in plain}) == 6
    known = {one.name: one.patient for one in plain}
    assert known["SECRET.h5"] == known["dicom series 1 (256x256)"] == hashed_identity("SECRET")
    assert known["SECRET_patient1.npy"] == hashed_identity("patient1")
    first = load_training_series([folder], rim=rim, cache=tmp_path / "cache")
    forbid_reading(monkeypatch)
    second = load_training_series([folder], rim=rim, cache=tmp_path / "cache")
    assert same(plain, first)
    assert same(plain, second)
    for one in (*first, *second):
        assert type(one.slices) is np.ndarray
        assert isinstance(one.slices.base, np.memmap)
        assert not one.slices.flags.writeable


def test_a_cached_file_is_whose_its_folders_say_now(tmp_path):
    """The cache keeps no identity that a name gave: from another root, the name says another."""
    deep = tmp_path / "data" / "subj9" / "deep"
    deep.mkdir(parents=True)
    np.save(deep / "knee.npy", phantoms(2))
    for root, patient in ((tmp_path / "data", "subj9"), (deep, "knee")):
        (one,) = load_training_series([root], cache=tmp_path / "cache")
        assert one.patient == hashed_identity(patient)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_only_so_many_arrays_stay_mapped(folder, tmp_path, monkeypatch):
    """Each holds a file open, and a process may have about a thousand of those."""
    monkeypatch.setattr("kspacesr_rt.train.pairs.MAPPED_FILES", 1)
    loaded = load_training_series([folder], cache=tmp_path / "cache")
    mapped = [isinstance(one.slices.base, np.memmap) for one in loaded]
    assert mapped[0]
    assert not any(mapped[1:])
    assert not any(one.slices.flags.writeable for one in loaded)
    assert same(loaded, load_training_series([folder]))


def test_the_cache_names_no_file_and_no_patient(folder, tmp_path):
    """Files, folders and headers hold names of patients; a cache is copied without a thought."""
    load_training_series([folder], rim="mix", cache=tmp_path / "cache")
    written = sorted((tmp_path / "cache").iterdir())
    assert len(written) > 8
    for path in written:
        assert "secret" not in path.name.lower()
        assert b"secret" not in path.read_bytes().lower()
        assert b"patient1" not in path.read_bytes().lower()


def change_content(root: Path) -> None:
    np.save(root / "SECRET_patient1.npy", phantoms(2, (80, 96), first=7) * 700)


def add_slice(root: Path) -> None:
    shutil.copy(sorted(sample_folder().glob("*.dcm"))[5], root / "SECRET" / "new.dcm")


@pytest.mark.parametrize("change", [change_content, add_slice])
def test_what_changed_is_read_again(folder, tmp_path, change):
    """A cache that returns last week's data is worse than none."""
    before = load_training_series([folder], cache=tmp_path / "cache")
    change(folder)
    after = load_training_series([folder], cache=tmp_path / "cache")
    assert same(after, load_training_series([folder]))
    assert not same(after, before)


def test_a_new_time_of_modification_is_a_change(folder, tmp_path, monkeypatch):
    """An export of the same size differs in nothing else that is quick to ask."""
    load_training_series([folder], cache=tmp_path / "cache")
    path = folder / "SECRET_patient1.npy"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    forbid_reading(monkeypatch)
    with pytest.raises(AssertionError, match="something was decoded"):
        load_training_series([folder], cache=tmp_path / "cache")


def test_each_way_with_the_rim_has_its_own_entries(data, tmp_path):
    """The same files, other arrays."""
    for rim in ("crop", "keep", "mix", "crop"):
        cached = load_training_series([data], rim=rim, cache=tmp_path / "cache")
        assert same(cached, load_training_series([data], rim=rim))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap_weight(path: Path) -> None:
    index = json.loads(path.read_text())
    for row in index["rows"]:
        row["facts"]["weight"] = 3.0
    path.write_text(json.dumps(index))


def other_json(path: Path) -> None:
    path.write_text("[1, 2]")


@pytest.mark.parametrize(
    ("harm", "ending"),
    [
        *((harm, ending) for harm in (truncate, flip, empty, Path.unlink)
          for ending in (".npy", ".json")),
        (swap_weight, ".json"), (other_json, ".json"),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_rebuilt(prepared, tmp_path, monkeypatch, harm, ending):
    """A full disk or a flipped bit costs time, not a night's training on garbage."""
    folder, sound, expected = prepared
    cache = tmp_path / "cache"
    shutil.copytree(sound, cache)
    for path in sorted(cache.glob(f"*{ending}")):
        harm(path)
    assert same(load_training_series([folder], cache=cache), expected)
    forbid_reading(monkeypatch)
    assert same(load_training_series([folder], cache=cache), expected)


def test_a_cache_of_nothing_is_as_wrong_as_nothing(tmp_path):
    """Air, and no image at all: the same errors, the first time and from the cache."""
    (tmp_path / "air").mkdir()
    np.save(tmp_path / "air" / "air.npy", np.zeros((3, 96, 96)))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no image")
    for _ in range(2):
        with pytest.raises(TrainingDataError, match="no slice holds enough tissue"):
            load_training_series([tmp_path / "air"], cache=tmp_path / "cache")
        with pytest.raises(TrainingDataError, match="none: no DICOM, NIfTI, NRRD"):
            load_training_series([tmp_path / "none"], cache=tmp_path / "cache")


def test_a_cache_inside_the_data_is_refused(folder):
    """Its arrays would be found and trained on as a second copy."""
    with pytest.raises(OutputError, match="lies inside the data") as caught:
        load_training_series([folder], cache=folder / "cache")
    assert caught.value.hint == "choose a folder beside it"
    assert not (folder / "cache").exists()


def test_a_cache_that_is_no_folder_is_refused(folder, tmp_path):
    """As an output error, not as a traceback."""
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        load_training_series([folder], cache=tmp_path / "cache")
