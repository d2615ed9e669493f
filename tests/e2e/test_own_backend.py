"""The backend of `docs/how-to/add-a-backend.md`: built, installed elsewhere, used as it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from page_commands import blocks_of
from repository import ROOT

from kspacesr_rt.bench.run.sample_series import cut_sample

PAGE = ROOT / "docs" / "how-to" / "add-a-backend.md"
FILE = re.compile(
    r"^`([\w/.]+)` [^`]*?\n\n(?:<!-- .*? -->\n)?```(?:toml|python)\n(.*?)^```$", re.S | re.M
)
PATIENCE_S = 1800


def run(*command, cwd, code=0, **settings):
    done = subprocess.run(
        [str(one) for one in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=PATIENCE_S,
        **settings,
    )
    assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Write the package that the page shows."""
    folder = tmp_path_factory.mktemp("package")
    files = dict(FILE.findall(PAGE.read_text()))
    assert set(files) == {
        "pyproject.toml",
        "onnx_reference/__init__.py",
        "onnx_reference/backend.py",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def python(package, tmp_path_factory):
    """Install its wheel into an environment of its own, which borrows what is installed here."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    run(*build, package / "dist", package, cwd=package)
    (wheel,) = (package / "dist").glob("*.whl")
    assert {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()} == {
        "onnx_reference",
        "onnx_reference_backend-1.0.dist-info",
    }
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    found = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", found, "install", "-q"]
    run(*install, "--no-deps", "--no-index", wheel, cwd=home)
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(run(found, "-c", purelib, cwd=home).strip())
    borrowed = [one for one in sys.path if one.endswith(("site-packages", "dist-packages"))]
    lines = [f"import site; site.addsitedir({one!r})" for one in borrowed]
    (own / "borrowed.pth").write_text("\n".join([*lines, str(ROOT)]) + "\n")
    return found


@pytest.mark.packaging
def test_it_runs_a_series_end_to_end(python, tmp_path):
    """`backends`, `doctor`, `verify` and `infer`; the report and the images say what computed."""
    ours = [python, "-m", "kspacesr_rt"]
    listed = json.loads(run(*ours, "backends", "--json", cwd=tmp_path))
    assert listed["onnx-reference"]["usable"] is True
    assert listed["onnx-reference"]["package"] == "onnx-reference-backend 1.0"
    assert json.loads(run(*ours, "doctor", "--json", cwd=tmp_path))["backends"]["onnx-reference"]
    name = ("--backend", "onnx-reference")
    assert json.loads(run(*ours, "verify", "x2-fast", *name, "--json", cwd=tmp_path))["passed"]
    (tmp_path / "study").mkdir()
    cut_sample(11, 96)[10].save_as(tmp_path / "study" / "slice.dcm")
    run(*ours, "infer", "study", "out", *name, cwd=tmp_path)
    run(*ours, "infer", "study", "reference", "--backend", "ort-cpu", cwd=tmp_path)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["backend"] == "onnx-reference"
    compared = (
        "import sys, numpy, pydicom\n"
        "one, other = (pydicom.dcmread(path).pixel_array.astype(float) for path in sys.argv[1:])\n"
        "assert other.max() > 500\n"
        "print(numpy.abs(one - other).max())"
    )
    images = [next((tmp_path / name).rglob("*.dcm")) for name in ("out", "reference")]
    assert float(run(python, "-c", compared, *images, cwd=tmp_path)) <= 1.0  # rounding


@pytest.mark.packaging
def test_it_keeps_the_contract(python, package, model_file, tmp_path):
    """The page's own test, in that environment, with a model that is quick."""
    (text,) = [
        block.text for block in blocks_of(PAGE.read_text()) if "def test_contract" in block.text
    ]
    small = "load_model(pathlib.Path(r'" + str(model_file) + "'))"
    text = text.replace('Subject("onnx-reference")', f'Subject("onnx-reference", {small})')
    heading = "import pathlib\nfrom kspacesr_rt.model.file import load_model\n"
    (tmp_path / "test_mine.py").write_text(heading + text)
    told = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py", cwd=tmp_path)
    assert re.search(r"\b20 passed, 1 skipped\b", told), told


@pytest.mark.packaging
def test_here_nobody_knows_of_it(tmp_path):
    """What makes it one of the backends is its installation, and nothing of this project."""
    done = subprocess.run(
        [sys.executable, "-m", "kspacesr_rt", "verify", "x2-fast", "--backend", "onnx-reference"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "is not one of" in done.stderr
