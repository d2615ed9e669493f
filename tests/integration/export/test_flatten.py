"""The command that exports chooses how FFT layers are written, and says it."""

from __future__ import annotations

import onnx
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.model.file import load_model


def test_the_command_says_what_it_chose_and_flattens(checkpoint_file, tmp_path, monkeypatch):
    """As a user types it; the gate itself is tested elsewhere."""
    from kspacesr_rt.conversion import proof

    monkeypatch.setattr(proof, "require_parity", lambda *given: None)
    output = tmp_path / "model.onnx"
    result = CliRunner().invoke(
        app,
        [
            "export",
            str(checkpoint_file),
            "-o",
            str(output),
            "--inline",
            "--runtime",
            "tensorrt-rtx",
            "--gpu",
            "sm75",
        ],
    )
    assert result.exit_code == 0, result.stderr
    assert "FFT layers lowered as conv (tensorrt-rtx has no fp32 matrix" in result.stdout
    assert load_model(output).spec.lowering == "conv"
    assert not onnx.load(tmp_path / "model.flat.onnx").functions
