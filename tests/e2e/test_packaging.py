"""What a wheel holds, installed elsewhere; built offline with the setuptools at hand."""

import shutil
import subprocess
import sys
import zipfile

import pytest
from repository import ROOT

CHECKOUT = ("LICENSE", "README.md", "pyproject.toml", "kspacesr_rt", "train", "export", "bench")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build through the sdist in a copy of the checkout, where nobody else builds or looks.

    Builds in one folder get in each other's way, and a SOURCES.txt that another version or a
    plug-in of setuptools has left there lists more files than belong into a wheel.
    """
    copy, target = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            unused = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=unused)
        else:
            shutil.copy(ROOT / name, copy)
    left = [str(path.relative_to(copy)) for path in sorted((copy / "bench").rglob("*.*"))]
    (copy / "kspacesr_rt.egg-info").mkdir()
    (copy / "kspacesr_rt.egg-info" / "SOURCES.txt").write_text("\n".join(left) + "\n")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(target.glob("*.whl"))


@pytest.mark.packaging
def test_the_wheel_has_one_top_level_and_everything_users_need(wheel):
    """`train`, `export` or `tests` at the top of somebody's site-packages would be rude."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"kspacesr_rt"}
    needed = {
        "kspacesr_rt/py.typed",
        "kspacesr_rt/model/shipped/x2-fast.onnx",
        "kspacesr_rt/model/shipped/x4-fast.md",
        "kspacesr_rt/sample/LICENSE",
        "kspacesr_rt/train/recipes/x2-fast.toml",
        "kspacesr_rt/export/lowering.py",
        "kspacesr_rt/bench/quality/evaluation.py",
        "kspacesr_rt/bench/results/schema.json",
        "kspacesr_rt/bench/results/baseline.json",
        "kspacesr_rt/bench/report/report.css",
        "kspacesr_rt/bench/report/report.js",
    }
    assert needed - set(names) == set()
    assert len([name for name in names if name.endswith(".dcm")]) == 20
    results = {name for name in names if "/bench/results/" in name and name.endswith(".json")}
    assert results <= needed
    assert [name for name in names if "/suites/" in name or "/test_" in name] == []
    assert wheel.stat().st_size < 15e6


@pytest.mark.packaging
def test_the_installed_wheel_runs_without_the_source_tree(wheel, tmp_path):
    """The sample goes through the shipped model from an installation that is not this clone."""
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import kspacesr_rt; assert kspacesr_rt.__file__.startswith(sys.argv[1])\n"
        "from kspacesr_rt.sample import sample_folder\n"
        "sys.argv = ['kspacesr-rt', 'infer', str(sorted(sample_folder().iterdir())[0]), "
        "sys.argv[2], '--threads', '1']\n"
        "from kspacesr_rt.cli import main; main()"
    )
    command = [sys.executable, "-c", code, str(target), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 slice written" in done.stdout
