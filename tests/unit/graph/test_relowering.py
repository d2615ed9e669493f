"""Other bodies for the FFT layers of a file: the graph that an export with that lowering makes."""

from __future__ import annotations

import dataclasses
import itertools

import onnx
import pytest

from kspacesr_rt.errors import ExportError
from kspacesr_rt.export.lowering import lower
from kspacesr_rt.graph.relowering import relowered
from kspacesr_rt.model.file import graph_digest, weights_digest
from kspacesr_rt.model.spec import OP_DOMAIN

LOWERINGS = ("gemm", "conv", "dft", "dynamic")
NETWORKS = {
    "dc-residual": {},
    "magnitude": {"data_consistency": "magnitude"},
    "seed-kspace": {"data_consistency": "additive"},
    "seed's own": {"fft_convention": "seed", "normaliser": "kspace-peak"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_is_lowered_again_as_export_would_have(name, make_generator):
    """From each lowering to each other: the same nodes, bodies, weights and constants."""
    architecture = name if name.startswith("seed-") else "dc-residual"
    architecture = "seed-kspace" if name == "seed's own" else architecture
    generator, spec = make_generator(architecture, **NETWORKS[name])
    made = {lowering: lower(generator, spec, lowering) for lowering in LOWERINGS}
    for first, second in itertools.permutations(LOWERINGS, 2):
        before = made[first].SerializeToString(deterministic=True)
        of_first = dataclasses.replace(spec, lowering=first)
        again = relowered(made[first], of_first, second)
        expected = made[second]
        assert graph_digest(again) == graph_digest(expected), (first, second)
        assert weights_digest(again) == weights_digest(expected)
        constants = [
            {one.name: one.raw_data for one in proto.graph.initializer}
            for proto in (again, expected)
        ]
        assert constants[0] == constants[1]
        shapes = [(proto.graph.input, proto.graph.output) for proto in (again, expected)]
        assert list(shapes[0][0]) == list(shapes[1][0])
        assert list(shapes[0][1]) == list(shapes[1][1])
        assert made[first].SerializeToString(deterministic=True) == before


def test_a_layer_without_such_a_body_is_named(make_generator):
    """A layer that this version cannot lower so is not left as it was under another name."""
    generator, spec = make_generator()
    proto = lower(generator, spec)
    proto.graph.node.append(
        onnx.helper.make_node(
            "Strange", ["lr"], ["odd"], domain=OP_DOMAIN, input_upscale=1, output_upscale=1
        )
    )
    with pytest.raises(ExportError, match="Strange cannot be lowered as 'conv'"):
        relowered(proto, spec, "conv")
