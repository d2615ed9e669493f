"""What may never happen to an archive, tried with real processes."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import fault_cases
import pydicom
import pytest

from kspacesr_rt.sample import sample_folder

pytestmark = pytest.mark.usefixtures("from_a_warm_process")

SECRETS = ("Meier", "Anna", "4711", "19700203", "JANE.DOE")
N_SLICES = 4
COPIES = 8
"""Of a study whose run is stopped: enough that the signal arrives before the end."""


@pytest.fixture
def study(tmp_path):
    """Slices full of a patient's name, in files and folders of that name."""
    folder = tmp_path / "archive" / "Meier_Anna_19700203"
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(sample_folder().glob("*.dcm"))[:N_SLICES]):
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID = "Meier^Anna", "4711-0815"
        dataset.PatientBirthDate = "19700203"
        dataset.save_as(folder / f"Meier_Anna_{number}.dcm")
    return folder


def command(source, out, *more):
    # zero-fill starts within a second on any machine; what is tested here is not the model.
    infer = (sys.executable, "-m", "kspacesr_rt", "infer", str(source), str(out))
    return [*infer, "--backend", "zero-fill", *more]


def run(source, out, *more, **how):
    return subprocess.run(
        command(source, out, *more), capture_output=True, text=True, timeout=300, **how
    )


def digests(folder):
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
            path.stat().st_ino,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def slices(out):
    return {path.name: path.read_bytes() for path in out.rglob("*.dcm")}


def stored_report(out):
    return json.loads((out / "report.json").read_text())


def leftovers(out):
    return [path.name for path in out.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_at_a_slice_edge_with_a_report_and_a_second_run_completes(
    study, tmp_path, number, code
):
    """No half file, a report of what is there, and the same bytes as a run that nobody stopped."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": fault_cases.EPOCH}
    out = tmp_path / "out"
    many = tmp_path / "many"
    for copy in range(COPIES):
        for path in study.iterdir():
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID[:50]}.{copy + 1}"
            (many / str(copy)).mkdir(parents=True, exist_ok=True)
            dataset.save_as(many / str(copy) / path.name)
    hold = tmp_path / "hold"
    hold.touch()  # it must not be done before the signal
    slowly = {"sleep_s": 0.05, "FAULT_HOLD": str(hold)}
    told = ("infer", many, out, "--backend", "zero-fill", "--batch", "1")
    process = fault_cases.start(*told, **slowly)
    fault_cases.wait_until(lambda: list(out.rglob("*.dcm")), process)
    process.send_signal(number)
    hold.unlink()
    returned, stderr = fault_cases.ended(process)
    assert returned == code, stderr
    assert "Traceback" not in stderr
    assert leftovers(out) == []
    report = stored_report(out)
    assert report["interrupted"]
    assert report["not_reached"] + report["written"] == COPIES * N_SLICES
    assert report["not_reached"] > 0
    assert stderr.splitlines()[-1] == (
        f"{'interrupted' if number == signal.SIGINT else 'terminated'}: {report['written']} slices "
        f"done, {report['not_reached']} left; the same command goes on with them"
    )
    assert report["written"] == len(slices(out)) > 0
    for path in out.rglob("*.dcm"):
        assert pydicom.dcmread(path).pixel_array.shape == (512, 512)
    again = run(many, out, env=environment)
    assert again.returncode == 0, again.stderr
    assert len(slices(out)) == COPIES * N_SLICES
    report = stored_report(out)
    assert (report["interrupted"], report["not_reached"]) == (False, 0)
    assert report["present"] + report["written"] == COPIES * N_SLICES
    fresh = tmp_path / "fresh"
    assert run(many, fresh, env=environment).returncode == 0
    assert slices(fresh) == slices(out)


def test_a_killed_run_is_completed_by_the_next(study, tmp_path):
    """SIGKILL can leave a temporary file, never half a slice under its own name."""
    out = tmp_path / "out"
    process = fault_cases.start("infer", study, out, "--backend", "zero-fill", "--batch", "1")
    fault_cases.wait_until(lambda: list(out.rglob("*.dcm")), process)
    process.kill()
    fault_cases.ended(process)
    for path in out.rglob("*.dcm"):
        assert pydicom.dcmread(path).pixel_array.shape == (512, 512)
    done = run(study, out)
    assert done.returncode == 0, done.stderr
    assert len(slices(out)) == N_SLICES


def test_a_full_disk_leaves_whole_slices_only(study, tmp_path):
    """Exit 7, and the report of what was done is still written where it fits."""
    out = tmp_path / "out"

    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = run(study, out, preexec_fn=no_large_files)
    assert done.returncode == 7
    assert done.stderr.startswith("error: an output cannot be written")
    assert (slices(out), leftovers(out)) == ({}, [])
    assert stored_report(out)["interrupted"]
    assert run(study, out).returncode == 0


@pytest.mark.parametrize("where", ["inside", "same", "around", "link-to", "link-inside"])
def test_an_output_that_touches_the_input_is_refused(study, tmp_path, where):
    """Exit 7, whichever contains the other and by whatever name."""
    link = tmp_path / "link"
    link.symlink_to(study)
    target = {
        "inside": study / "out",
        "same": study,
        "around": study.parent,
        "link-to": link,
        "link-inside": link / "out",
    }[where]
    before = digests(study)
    done = run(study, target)
    assert done.returncode == 7, done.stderr
    assert digests(study) == before
    assert len(list(study.parent.rglob("*"))) == 1 + N_SLICES


def test_links_of_the_input_in_the_output_are_not_written_through(study, tmp_path):
    """A hard link has the archive's bytes under another name: only the name goes."""
    out = tmp_path / "out"
    assert run(study, out).returncode == 0
    source = next(iter(sorted(study.iterdir())))
    derived = next(out.rglob("*.dcm"))
    whole = derived.read_bytes()
    derived.write_bytes(whole[:-2000])
    assert run(study, out).returncode == 0  # cut short by somebody, and made again
    assert len(derived.read_bytes()) == len(whole)
    before = digests(study)
    derived.unlink()
    os.link(source, derived)
    assert run(study, out).returncode == 0
    assert (digests(study), source.stat().st_nlink) == (before, 1)
    assert pydicom.dcmread(derived).SOPInstanceUID != pydicom.dcmread(source).SOPInstanceUID
    derived.unlink()
    derived.symlink_to(source)
    refused = run(study, out)
    assert refused.returncode == 7, refused.stderr
    assert digests(study) == before
    derived.unlink()
    assert run(study, out).returncode == 0
    (out / "report.json").unlink()
    (out / "report.json").symlink_to(source)
    before = digests(study)
    assert run(study, out).returncode == 7
    assert digests(study) == before


def test_a_report_goes_over_no_file_of_somebody_else(study, tmp_path):
    """`--report` with a slip of the finger."""
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    done = run(study, tmp_path / "out", "--report", str(thesis))
    assert (done.returncode, thesis.read_text()) == (7, "years of work")
    assert not (tmp_path / "out").exists()
    assert run(study, tmp_path / "out", "--report", str(study / "r.json")).returncode == 7
    assert sorted(path.suffix for path in study.iterdir()) == [".dcm"] * N_SLICES


@pytest.mark.parametrize("case", ["good", "broken", "nothing", "bad-values"])
def test_no_word_of_a_patient_leaves_but_in_the_slices(study, tmp_path, case):
    """Names of files, what is printed, the report and the pictures: logs get mailed."""
    out = tmp_path / "out"
    first = sorted(study.iterdir())[0]
    if case == "broken":
        first.write_bytes(first.read_bytes()[:-5000])
    elif case == "nothing":
        for path in study.iterdir():
            path.write_text("Meier, Anna, 4711")
    elif case == "bad-values":
        # A name in a UID: pydicom quotes it in a warning that goes straight to stderr.
        content = first.read_bytes()
        uid = str(pydicom.dcmread(first).StudyInstanceUID).encode()
        assert uid in content
        first.write_bytes(content.replace(uid, b"JANE.DOE.1970".ljust(len(uid), b"X")))
    done = run(study, out, "--preview", "-v")
    told = done.stdout + done.stderr
    if out.exists():
        told += (out / "report.json").read_text()
        told += " ".join(str(path.relative_to(out)) for path in out.rglob("*"))
    assert not [word for word in SECRETS if word in told], told
    assert "Warning" not in done.stderr
    nowhere = run(study / "Meier_Anna_9", out)
    assert nowhere.returncode == 2
    assert "Meier" not in nowhere.stdout + nowhere.stderr


def test_paths_are_told_when_asked_for(study, tmp_path):
    """Whoever must find a file among thousands says so."""
    out = tmp_path / "out"
    assert run(study, out, "--show-paths").returncode == 0
    assert stored_report(out)["slices"][0]["file"].startswith("Meier_Anna_")
    shutil.rmtree(out)
    assert run(study, out).returncode == 0
    assert stored_report(out)["slices"][0]["file"].startswith("sha256:")
