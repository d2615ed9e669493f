"""What binding makes anew is looked at, too: others run a file as it stands."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import kspacesr_rt as ks
from kspacesr_rt.cli import app
from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.model.binding import require_stored_constants
from kspacesr_rt.model.file import bound_constants, load_model, shipped_models


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_the_shipped_files_hold_what_binding_makes(name):
    """In other versions of NumPy, too."""
    require_stored_constants(load_model(shipped_models()[name]))


def changed(folder, name, change):
    """Save `x2-fast` with one value of a constant changed."""
    proto = onnx.load(shipped_models()["x2-fast"])
    assert name in bound_constants(proto)
    [tensor] = [item for item in proto.graph.initializer if item.name == name]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[7] = change(values.flat[7], np.abs(values).max())
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    path = folder / "changed.onnx"
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("name", ["zero_fill.right", "predicted_fft.left", "predicted_fft.right"])
def test_a_constant_that_was_changed_is_found(tmp_path, name):
    """The digest of the weights leaves them out, and a flipped bit passed every check."""
    path = changed(tmp_path, name, lambda value, top: value + top / 1000)
    with pytest.raises(ModelFileError, match=rf"'{name}' was changed after export"):
        ks.verify(path, backend="ort-cpu", threads=1)
    done = CliRunner().invoke(app, ["verify", str(path)])
    assert (done.exit_code, "changed after export" in str(done.output)) == (2, True)


def test_the_last_bits_may_differ(tmp_path):
    """As another NumPy rounds them."""
    path = changed(tmp_path, "zero_fill.right", lambda value, top: value + 2e-7 * top)
    require_stored_constants(load_model(path))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_found(tmp_path, value):
    """Comparing it is never true."""
    path = changed(tmp_path, "zero_fill.right", lambda *_: value)
    with pytest.raises(ModelFileError, match="changed after export"):
        require_stored_constants(load_model(path))
