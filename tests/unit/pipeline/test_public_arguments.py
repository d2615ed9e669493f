"""What public functions are given is looked at: what is wrong is said by its name."""

from __future__ import annotations

import pytest

import kspacesr_rt as ks
from kspacesr_rt.errors import InputError


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ks.load(3), "model is a path, not 3"),
        (lambda: ks.load(b"x2-fast"), "model is a path"),
        (lambda: ks.verify(3), "model is a path, not 3"),
        (lambda: ks.verify(None), "model is a path, not None"),
        (lambda: ks.infer(3, "out"), "source is a path, not 3"),
        (lambda: ks.infer(".", None), "output is a path, not None"),
        (lambda: ks.infer(".", "out", {"backend": "zero-fill"}), "InferOptions, not dict"),
        (lambda: ks.Session({}), "InferOptions, not dict"),
        (lambda: ks.convert_model(3, "x.onnx"), "model is a path, not 3"),
        (lambda: ks.convert_model("x2-fast", None), "output is a path, not None"),
        (lambda: ks.adopt_model(3, "x.onnx"), "source is a path, not 3"),
        (lambda: ks.export_model(3, "x.onnx"), "checkpoint is a path, not 3"),
        (lambda: ks.export_model("x.pt", None), "output is a path, not None"),
    ],
)
def test_an_argument_of_another_type_is_named(call, sentence, tmp_path, monkeypatch):
    """A bare TypeError out of the standard library names none."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        call()


def test_a_text_file_is_no_checkpoint(tmp_path):
    """The reader's own words were 'list index out of range'."""
    (tmp_path / "text.pt").write_text("root:x:0:0:root:/root:/bin/bash\n" * 9)
    with pytest.raises(InputError, match="not a readable checkpoint: it is no file that"):
        ks.export_model(tmp_path / "text.pt", tmp_path / "x.onnx")
