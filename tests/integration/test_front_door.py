"""What ``import kspacesr_rt as ks`` gives: light to import, complete, and every example runs."""

import ast
import doctest
import importlib
import inspect
import subprocess
import sys

import numpy as np
import pytest
from pydicom import dcmread
from repository import ROOT

import kspacesr_rt as ks
from kspacesr_rt.pipeline.array_model import Model
from kspacesr_rt.sample import sample_folder

CALLABLE = sorted(set(ks.__all__) - {"__version__", "bench", "errors", "export", "train"})
EXAMPLES = {
    name: test
    for name in ["kspacesr_rt", *CALLABLE]
    for test in doctest.DocTestFinder(recurse=name == "Model").find(
        ks if name == "kspacesr_rt" else getattr(ks, name), name, globs={}
    )
    if test.examples
}
HEAVY = ("numpy", "onnx", "pydicom", "torch", "onnxruntime", "openvino", "PIL", "typer", "rich")


def test_every_public_name_has_an_example():
    assert set(EXAMPLES) >= {"kspacesr_rt", *CALLABLE}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch):
    if name == "export_model":
        pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    told = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    found = runner.run(EXAMPLES[name], out=told.append)
    assert found.attempted
    assert not found.failed, "".join(told)


def test_importing_loads_nothing_heavy():
    """Whoever imports the package in a tool of a few lines must not wait for array libraries."""
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, kspacesr_rt\nprint([name for name in {HEAVY!r} if name in sys.modules])",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert loaded.strip() == "[]"


def test_the_stub_and_the_module_say_the_same():
    """Editors read one file, Python the other."""
    stub = ast.parse((ROOT / "kspacesr_rt" / "__init__.pyi").read_text())
    homes = {
        alias.asname: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    [listed] = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert sorted(homes) == sorted(listed) == sorted(ks.__all__)
    for name, (module, original) in homes.items():
        home = importlib.import_module(module)
        there = getattr(home, original, None) or importlib.import_module(f"{module}.{original}")
        assert there is getattr(ks, name)


def test_dir_lists_what_is_not_loaded_yet():
    assert {name for name in dir(ks) if not name.startswith("__")} == set(ks.__all__) - {
        "__version__"
    }


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'upscale'"):
        _ = ks.upscale
    assert not hasattr(ks, "__wrapped__")


def test_what_needs_pytorch_says_so_without_it():
    code = (
        "import sys\nsys.modules['torch'] = None\nimport kspacesr_rt as ks\n"
        "ks.load, ks.infer, ks.Session, ks.verify\n"
        "from kspacesr_rt import *\nload, infer, train, errors\n"
        "for name in ('export_model', 'export_module', 'layers'):\n"
        "    assert name not in dir(ks)\n"
        "    try: getattr(ks, name)\n    except ImportError as exc: print(exc)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert [line.split(" needs PyTorch: pip install")[0] for line in told.splitlines()] == [
        "kspacesr_rt.export_model",
        "kspacesr_rt.export_module",
        "kspacesr_rt.layers",
    ]


def test_everything_can_be_imported_by_a_star():
    names = {}
    exec("from kspacesr_rt import *", names)
    assert set(ks.__all__) <= names.keys()


@pytest.mark.parametrize("name", CALLABLE)
def test_public_functions_and_classes_are_described(name):
    """Shapes, units and errors stand where editors show them."""
    described = inspect.getdoc(getattr(ks, name))
    assert described
    if inspect.isfunction(getattr(ks, name)):
        for heading in ("Parameters\n", "Returns\n", "Raises\n", "Examples\n"):
            assert heading in described, heading


def test_a_baseline_needs_no_model():
    model = ks.load(backend="zero-fill", upscale=3)
    assert isinstance(model, Model)
    assert (model.upscale, model.backend) == (3, "zero-fill")
    assert model(np.ones((2, 8, 6))).shape == (2, 24, 18)


def test_an_upscale_alone_names_the_shipped_model():
    """Nobody who asks for x4 has named an x2 model."""
    pytest.importorskip("onnxruntime")
    with ks.load(backend="ort-cpu", upscale=4, threads=1) as model:
        assert (model.spec.name, model.upscale) == ("x4-fast", 4)


def test_a_model_and_an_upscale_must_agree():
    with pytest.raises(ks.errors.InputError, match="upscales by 2"):
        ks.load("x2-fast", upscale=4)


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(ks.errors.InputError, match="x3-fast"):
        ks.load("x3-fast")


def test_arrays_and_studies_agree(tmp_path):
    """What a model makes of an array is what `infer` stores of the same slice, within rounding."""
    pytest.importorskip("onnxruntime")
    from kspacesr_rt.dicom import read_slice, scan_folder

    source = min(sample_folder().glob("*.dcm"))
    ks.infer(source, tmp_path, ks.InferOptions(backend="ort-cpu", model="x2-fast", threads=1))
    [stored] = tmp_path.rglob("*.dcm")
    with ks.load("x2-fast", backend="ort-cpu", threads=1) as model:
        [series] = scan_folder(source).series
        sr = model(read_slice(series.slices[0]).values)
    ds = dcmread(stored)
    step = float(ds.get("RescaleSlope", 1))
    values = ds.pixel_array * step + float(ds.get("RescaleIntercept", 0))
    np.testing.assert_allclose(
        values, np.clip(sr, values.min(), values.max()), rtol=0, atol=0.51 * step
    )
