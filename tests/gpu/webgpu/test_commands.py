"""The command line where a WebGPU is, and where part of it is missing."""

from __future__ import annotations

import json

import numpy as np
import pytest

VERIFY = ("verify", "x2-fast", "--backend", "ort-webgpu", "--json")


def refusal(done):
    """Return the error of a command that printed nothing else."""
    assert done.returncode == 3, done.stderr[-2000:]
    assert done.stdout == ""
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("{"))
    answer = json.loads(line)
    assert answer["exit_code"] == 3
    return answer["error"]["message"], answer["error"]["hint"]


@pytest.fixture(scope="module")
def found(machine):
    """Return what doctor says of this machine."""
    return json.loads(machine.cli("doctor", "--json").stdout)


def test_doctor_and_backends_list_it(machine, found):
    """Usable, with what Vulkan lists; the CPU provider of the same package runs `ort-cpu`."""
    assert found["backends"]["ort-webgpu"] == "usable"
    assert found["backends"]["ort-cpu"] == "usable"
    assert found["providers"]["WebGpuExecutionProvider"] == "loads"
    assert found["vulkan"].endswith(")")
    assert not found["vulkan"].startswith("none")
    assert "onnxruntime-webgpu" in found["packages"]
    assert json.loads(machine.cli("backends", "--json").stdout)["ort-webgpu"]["usable"]


def test_infer_computes_on_it_and_says_so(machine, found, tmp_path):
    """From an array to an array; the report names the backend, and that software is no GPU."""
    slices = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    np.save(tmp_path / "lr.npy", slices)
    out = tmp_path / "out"
    done = machine.cli("infer", tmp_path / "lr.npy", out, "--backend", "ort-webgpu")
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((out / "report.json").read_text())
    assert report["backend"] == "ort-webgpu"
    (written,) = out.glob("*.npy")
    assert np.load(written).shape == (2, 32, 32)
    says = "which is software on the CPU and no GPU" in done.stdout + done.stderr
    assert says == found["vulkan"].endswith("(software)")


def test_smoke_takes_it(machine, found, tmp_path):
    """As the GPU backend that runs here; known answers are tried elsewhere, so time ends before."""
    listed = found["vulkan"]
    output = tmp_path / "smoke.json"
    done = machine.cli("bench", "--profile", "smoke", "--budget", 1, "-o", output)
    assert done.returncode == 0, done.stderr[-2000:]
    smoke = json.loads(output.read_text())
    assert smoke["backend"] == "ort-webgpu"
    first, _, computes, *others = smoke["checks"]
    assert (first["check"], first["outcome"]) == (
        "machine",
        "not proved" if listed.endswith("(software)") else "passed",
    )
    assert first["measured"]["adapters"] == listed.split(", ")
    assert (computes["check"], computes["outcome"]) == ("the GPU computes", "passed")
    assert {one["outcome"] for one in others} == {"no time left"}


def test_without_vulkan(machine, tmp_path):
    """Dawn says of this, of a missing driver and of an empty machine alike that there is none."""
    (tmp_path / "libvulkan.so.1").write_text("no library")
    message, hint = refusal(machine.cli(*VERIFY, LD_LIBRARY_PATH=str(tmp_path)))
    assert message == (
        "backend 'ort-webgpu' cannot run here: there is no Vulkan here: libvulkan.so.1 cannot be "
        "loaded"
    )
    assert hint.startswith("apt-get install libvulkan1")


def test_without_a_driver_for_vulkan(machine, tmp_path):
    message, hint = refusal(machine.cli(*VERIFY, VK_ICD_FILENAMES=str(tmp_path / "none.json")))
    assert message == (
        "backend 'ort-webgpu' cannot run here: Vulkan has no GPU here: no driver of one is "
        "installed"
    )
    assert hint.startswith("AMD and Intel: apt-get install mesa-vulkan-drivers; NVIDIA: ")
    found = json.loads(
        machine.cli("doctor", "--json", VK_ICD_FILENAMES=str(tmp_path / "none.json")).stdout
    )
    assert found["vulkan"].startswith("none (Vulkan has no GPU here")
