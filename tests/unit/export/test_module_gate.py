"""The gate of users' networks, where a runtime does not run what the exporter wrote."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from kspacesr_rt.errors import ExporterError
from kspacesr_rt.export import module_gate
from kspacesr_rt.export.module_gate import GateInput, agreement_at


def test_a_runtimes_own_error_is_the_exporters(monkeypatch):
    """So that another way of exporting is tried, and at the end a sentence names the matrix."""

    class Failing:
        def run(self, batch):
            raise ValueError("Size of X.shape[axis:] must be at least 1")

    monkeypatch.setattr(module_gate, "bind", lambda model, matrix: model)
    monkeypatch.setattr(module_gate, "open_backend", lambda *_: contextlib.nullcontext(Failing()))
    given = GateInput(name="48 x 48, 1 slice", values=np.zeros((1, 1, 48, 48), np.float32))
    with pytest.raises(ExporterError, match="does not run at 48 x 48, 1 slice: Size of X"):
        agreement_at(None, given, given.values, "ort-cpu")
