"""Shared fixtures: specifications, random generators and a model file, all of them tiny."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.testing
from hypothesis import settings
from sampling import pytest_addoption, pytest_collection_modifyitems
from torch import nn

from kspacesr_rt.model.file import ModelFile, parse_model, weights_digest
from kspacesr_rt.model.spec import Lowering, ModelSpec

# Python's collector walks over all that torch and ten thousand tests have made, again and again. Of
# tests/unit/cli, docs and runtime in one process that was 6.3 of 30.7 s; it is 1.9 of 26.6 s.
gc.set_threshold(10_000, 10, 50)
torch.set_num_threads(1)
# A shell starts jobs in the background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What was verified or built in a test is nobody's business afterwards; subprocesses inherit it.
os.environ["KSPACESR_RT_CACHE"] = tempfile.mkdtemp(prefix="kspacesr-test-cache-")
# Shared machines stall for longer than Hypothesis' deadline without anything being wrong.
settings.register_profile("shared-machine", deadline=None, max_examples=50)
settings.register_profile(
    "same-examples", parent=settings.get_profile("shared-machine"), derandomize=True
)
settings.load_profile("shared-machine")
pytest_plugins = ["pytester"]
# CliRunner builds all commands of the program anew at each call, a tenth of a second; as they are
# built from declarations alone, those of the first call serve. Processes of tests/e2e build theirs.
typer.testing._get_command = functools.cache(typer.testing._get_command)


GeneratorMaker = Callable[..., tuple[nn.Module, ModelSpec]]
ModelMaker = Callable[..., ModelFile]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take what was collected for what it is: there to the end."""
    gc.collect()
    gc.freeze()


def _spec(architecture: str, upscale: int, overrides: dict[str, Any]) -> ModelSpec:
    seed_kspace = architecture == "seed-kspace"
    values: dict[str, Any] = {
        "name": f"tiny-{architecture}-x{upscale}",
        "architecture": architecture,
        "upscale": upscale,
        "width": 4,
        "blocks": 3 if architecture == "dc-residual" else 5,
        "cascades": 2 if architecture == "dc-residual" else 1,
        "bias": architecture != "dc-residual",
        "matrix": (24, 24),
        "data_consistency": "none" if architecture == "seed-image" else "hard",
        "output": "magnitude" if seed_kspace else "real",
    }
    return ModelSpec(**(values | overrides))


def _decaying_spectrum(size: int, rng: np.random.Generator) -> torch.Tensor:
    """Make a spectrum that falls by three decades from DC, with 10 % of texture."""
    frequency = np.abs(np.arange(size) - size // 2) / size
    fall = np.exp(-7.0 * np.hypot(frequency[:, None], frequency[None, :]))
    texture = rng.uniform(0.9, 1.1, (size, size))
    return torch.from_numpy((3.0 * fall * texture).astype(np.float32))


def randomise(generator: nn.Module, seed: int = 0) -> None:
    """Give every parameter and statistic its own value, so that a mix-up of two shows.

    Fresh networks hide mistakes: BatchNorm statistics are 0 and 1, PReLU slopes all 0.25, spectra
    all 1, and the last layer of the residual generator next to nothing.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, module in generator.named_modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, fan_in**-0.5)
                if module.bias is not None:
                    module.bias.normal_(0.0, 0.1)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.1)
                module.running_mean.normal_(0.0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(0.05, 0.4)
            if name.startswith("h_"):
                module.spectrum.copy_(_decaying_spectrum(len(module.spectrum), rng))


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., ModelSpec]:
    def make(architecture: str = "dc-residual", upscale: int = 2, **overrides: Any) -> ModelSpec:
        return _spec(architecture, upscale, overrides)

    return make


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    return _spec("dc-residual", 2, {})


@pytest.fixture(scope="session")
def make_generator() -> GeneratorMaker:
    """``make_generator(architecture, upscale, seed=0, **spec_fields) -> (generator, spec)``."""
    from kspacesr_rt.train.generators import build_generator

    def make(
        architecture: str = "dc-residual", upscale: int = 2, *, seed: int = 0, **overrides: Any
    ) -> tuple[nn.Module, ModelSpec]:
        spec = _spec(architecture, upscale, overrides)
        generator = build_generator(spec).eval()
        randomise(generator, seed)
        return generator, spec

    return make


@pytest.fixture(scope="session")
def make_model() -> ModelMaker:
    """``make_model(generator, spec, lowering) -> ModelFile``, as export makes it, ungated."""
    from kspacesr_rt.conversion.proof import finished, known_answer
    from kspacesr_rt.export.exporter import torch_runner
    from kspacesr_rt.export.lowering import lower
    from kspacesr_rt.graph.bodies import OPSET

    def make(generator: nn.Module, spec: ModelSpec, lowering: Lowering = "gemm") -> ModelFile:
        proto = lower(generator, spec, lowering)
        provenance = dataclasses.replace(spec.provenance, weights_sha256=weights_digest(proto))
        stamped = dataclasses.replace(spec, lowering=lowering, opset=OPSET, provenance=provenance)
        answer = known_answer(torch_runner(generator), spec)
        return parse_model(finished(proto, stamped, answer), name=f"{spec.name}.onnx")

    return make


@pytest.fixture(scope="session")
def model(make_generator: GeneratorMaker, make_model: ModelMaker) -> ModelFile:
    """A tiny dc-residual x2 model, read back; treat it as read-only."""
    return make_model(*make_generator())


@pytest.fixture(scope="session")
def model_file(model: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `model`; treat it as read-only."""
    path = tmp_path_factory.mktemp("model") / model.name
    path.write_bytes(model.proto.SerializeToString(deterministic=True))
    return path


@pytest.fixture(scope="session")
def checkpoint_file(make_generator: GeneratorMaker, tmp_path_factory: Any) -> Path:
    """A checkpoint of the generator behind `model`; treat it as read-only."""
    from kspacesr_rt.train.checkpoint import save_checkpoint

    generator, spec = make_generator()
    path = Path(tmp_path_factory.mktemp("checkpoint")) / "tiny.pt"
    save_checkpoint(path, spec, generator.state_dict())
    return path
