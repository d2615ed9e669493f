"""A small model that 8 bits are enough for, as they are for trained ones."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def calm_model_file(make_generator, make_model, tmp_path_factory):
    """The file of a generator close to zero-filling; treat it as read-only."""
    generator, spec = make_generator("dc-residual", 2, width=16, blocks=2, cascades=2)
    with torch.no_grad():
        for cascade in generator.cascades:
            cascade.tail.weight.mul_(0.05)
    model = make_model(generator, spec)
    path = tmp_path_factory.mktemp("calm") / model.name
    path.write_bytes(model.proto.SerializeToString(deterministic=True))
    return path
