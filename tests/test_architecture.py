"""Who may import whom: said by the source files, and by a fresh interpreter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "kspacesr_rt": ROOT / "kspacesr_rt",
    "kspacesr_rt.train": ROOT / "train",
    "kspacesr_rt.export": ROOT / "export",
    "kspacesr_rt.bench": ROOT / "bench",
}
LAYERS = ("runtime", "train", "export", "bench", "cli")
"""Each may import what stands to its left; the CLI may import everything."""
RUNTIME_LAYERS = {
    "errors": 0,
    "_version": 0,
    "cores": 1,
    "kspace": 1,
    "files": 1,
    "moments": 1,
    "spec": 2,
    "spectrum": 2,
    "metrics": 2,
    "added_energy": 2,
    "interpolation": 2,
    "interruption": 1,
    "telemetry": 1,
    "plain_text": 1,
    "support": 2,
    "rim_energy": 3,
    "interpolated": 4,
    "half_spectra": 3,
    "signs": 2,
    "trust": 5,
    "survey": 5,
    "phantoms": 2,
    "dft_matrices": 2,
    "real_band": 2,
    "report": 2,
    "sample": 2,
    "models": 2,
    "model_content": 3,
    "graph_lengths": 3,
    "graph_memory": 4,
    "model_file": 4,
    "dicom": 3,
    "preview": 3,
    "binding": 5,
    "engines": 6,
    "backends": 7,
    "verify": 8,
    "doctor": 8,
    "diagnosis": 9,
    "verified": 9,
    "selection": 10,
    "pipeline": 11,
    "node": 12,
    "mercure": 12,
    "watching": 13,
    "cli": 14,
    "__main__": 15,
}
"""runtime: pipeline -> {dicom, binding, engines, backends} -> {kspace, spec, metrics} -> errors."""
HEAVY = (
    *("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda"),
    *("nibabel", "nrrd", "h5py", "pytest", "pynetdicom", "ray", "watchdog"),
)


def modules():
    for prefix, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if "suites" in path.parts:
                continue  # benchmarks, run by pytest and not installed
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((prefix, *(part for part in parts if part != "__init__"))), path


def layer_of(module):
    head = module.split(".")[1] if "." in module else "_version"
    if head in ("train", "export", "bench", "cli"):
        return head
    return "cli" if head == "__main__" else "runtime"


def imports_of(path):
    """Yield ``(module, is at module level)`` of every import statement outside TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            yield node.module, id(node) in top


MODULES = dict(modules())


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_towards_the_runtime(module):
    """Cli -> bench -> export -> train -> runtime: nothing imports what stands in front of it."""
    own = LAYERS.index(layer_of(module))
    for name, _ in imports_of(MODULES[module]):
        if name.startswith("kspacesr_rt"):
            assert LAYERS.index(layer_of(name)) <= own, f"{module} imports {name}"
            assert layer_of(name) != "cli" or layer_of(module) == "cli", f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if layer_of(name) == "runtime"])
def test_runtime_modules_keep_their_order(module):
    """Inside the runtime, too, imports point one way; every module has a place in the table."""
    own = RUNTIME_LAYERS[module.split(".")[1]] if "." in module else 1
    for name, _ in imports_of(MODULES[module]):
        parts = name.split(".")
        if parts[0] == "kspacesr_rt" and len(parts) > 1 and layer_of(name) == "runtime":
            same_package = module.split(".")[1:2] == parts[1:2]
            assert same_package or RUNTIME_LAYERS[parts[1]] < own, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_load_only_where_they_are_used(module):
    """Torch lives in train/ and export/; an inference library is imported inside `open`."""
    for name, at_top in imports_of(MODULES[module]):
        library = name.split(".")[0]
        if library == "torch":
            assert layer_of(module) in ("train", "export"), f"{module} imports torch"
        elif library in HEAVY:
            assert not at_top, f"{module} imports {library} when it is itself imported"


def run_fresh(code):
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT.parent
    ).stdout


def test_no_runtime_module_brings_torch_or_a_backend():
    """A scanner-side box has no torch: importing every runtime module must not ask for it."""
    names = [name for name in MODULES if layer_of(name) == "runtime"] + ["kspacesr_rt.cli"]
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


def test_help_loads_neither_arrays_nor_dicom():
    """``--help`` is asked for more often than anything else: it must not load numpy or pydicom."""
    loaded = run_fresh(
        "import sys, kspacesr_rt.cli\n"
        "print([name for name in ('numpy', 'pydicom', 'onnx', 'torch') if name in sys.modules])"
    )
    assert loaded.strip() == "[]"
