"""What a fresh interpreter loads: neither torch nor a backend that nobody asked for."""

import subprocess
import sys

from repository import ROOT
from source_tree import HEAVY, MODULES, is_runtime

OF_OS = {"os", "stat", "_stat", "posixpath", "ntpath", "genericpath", "abc", "_abc"}
OF_OS |= {"_collections_abc", "os.path", "nt"}


def run_fresh(code):
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT.parent
    ).stdout


def test_no_runtime_module_brings_torch_or_a_backend():
    """A scanner-side box has no torch: importing every runtime module must not ask for it."""
    names = [name for name in MODULES if is_runtime(name)] + ["kspacesr_rt.cli"]
    loaded = run_fresh(
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_the_runtime_works_where_torch_cannot_be_imported(tmp_path):
    """The sample goes through the shipped model with every import of torch forbidden."""
    code = (
        "import sys\nfrom pathlib import Path\nsys.modules['torch'] = None\n"
        "from kspacesr_rt.pipeline import InferOptions, infer\n"
        "from kspacesr_rt.sample import sample_folder\n"
        "first = sorted(sample_folder().glob('*.dcm'))[0]\n"
        f"report = infer(first, Path({str(tmp_path / 'out')!r}), InferOptions(threads=1))\n"
        "print(report.count('written'))"
    )
    assert run_fresh(code).strip() == "1"


def test_the_package_itself_loads_next_to_nothing():
    """Without what an environment's own start-up files load: every process of ours pays for it."""
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nbefore = set(sys.modules)\n"
        "import kspacesr_rt\n"
        "print(*(name for name in set(sys.modules) - before if 'kspacesr_rt' not in name))"
    )
    run = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    brought = set(run.stdout.split())
    assert brought <= {"__future__", "openvino_telemetry", *OF_OS}, brought


def test_help_loads_neither_arrays_nor_dicom():
    """``--help`` is asked for more often than anything else: it must not load numpy or pydicom."""
    loaded = run_fresh(
        "import sys, kspacesr_rt.cli\n"
        "print([name for name in ('numpy', 'pydicom', 'onnx', 'torch') if name in sys.modules])"
    )
    assert loaded.strip() == "[]"
