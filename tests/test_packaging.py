"""What a wheel holds, installed elsewhere; built offline with the setuptools at hand."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build through the sdist, so that nothing comes from a stale build folder."""
    target = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(target.glob("*.whl"))


@pytest.mark.packaging
def test_the_wheel_has_one_top_level_and_everything_users_need(wheel):
    """`train`, `export` or `tests` at the top of somebody's site-packages would be rude."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"kspacesr_rt"}
    for needed in (
        "kspacesr_rt/py.typed",
        "kspacesr_rt/models/x2-fast.onnx",
        "kspacesr_rt/models/x4-fast.md",
        "kspacesr_rt/sample/LICENSE",
        "kspacesr_rt/train/recipes/x2-fast.toml",
        "kspacesr_rt/export/lowering.py",
        "kspacesr_rt/bench/quality.py",
        "kspacesr_rt/bench/results/schema.json",
        "kspacesr_rt/bench/results/baseline.json",
        "kspacesr_rt/bench/report.css",
        "kspacesr_rt/bench/report.js",
    ):
        assert needed in names
    assert sum(name.endswith(".dcm") for name in names) == 20
    assert not any("/suites/" in name or "test_" in name for name in names)
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
    assert "1 slices written" in done.stdout
