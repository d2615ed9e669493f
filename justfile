# `just` lists the recipes. Each line also works typed by hand, in the repository's folder and an
# active virtual environment; CONTRIBUTING.md says how to get one.

# Some images forbid Python to keep what it has compiled: each process would compile the checkout anew.
export PYTHONDONTWRITEBYTECODE := ""

_list:
    @just --list --unsorted

# Install this checkout, the tests and the tools into the active environment.
setup:
    pip install -c constraints.txt -e '.[test]' --group dev --group docs

# Before every push: style, types, and what needs no other process, side by side.
[parallel]
fast: lint types unit

# Unit tests, of large matrices a sample.
unit:
    pytest -q tests/unit -n 2 --dist worksteal --sample

# Style.
lint:
    ruff format --check .
    ruff check .

# Types; CI also asks pyright, which takes longer.
types:
    mypy

# What the README tells a visitor to run: unit and integration tests, whole.
test:
    pytest

# All tests: the command line's processes, signals, Ray, Orthanc, Chromium and packaging, too.
full: lint types test docs
    pyright
    pytest tests/e2e

# Write what the reference shows of the code (options, names of Python, metrics) into its pages.
pages:
    python docs/hooks/write_pages.py

# The real onnxruntime-gpu on a CUDA made of host memory; g++ and 370 MB in FOLDER are needed.
standin FOLDER="build/for-gpus":
    pip install -q --no-deps --target {{ FOLDER }} -r tests/gpu/standin/requirements.txt
    KSPACESR_RT_STANDIN={{ FOLDER }} KSPACESR_RT_REQUIRE=standin pytest -q tests/gpu/standin

# The real onnxruntime-webgpu on Vulkan: a GPU's, or SwiftShader of Debian's package chromium; 68 MB in FOLDER.
webgpu FOLDER="build/for-webgpu":
    pip install -q --no-deps --target {{ FOLDER }} -r tests/gpu/webgpu/requirements.txt
    KSPACESR_RT_WEBGPU={{ FOLDER }} KSPACESR_RT_REQUIRE=webgpu pytest -q tests/gpu/webgpu

# NVIDIA's Triton itself, of the wheel nvidia-pytriton: 60 MB in FOLDER. Needs glibc 2.35 and a shared libpython.
triton FOLDER="build/for-triton":
    pip install -q --no-deps --target {{ FOLDER }} 'nvidia-pytriton==0.7.0'
    KSPACESR_RT_TRITON={{ FOLDER }} KSPACESR_RT_REQUIRE=triton pytest -q tests/e2e/test_triton.py

# Build the site, as strictly as CI does, into site/.
docs:
    mkdocs build --strict

# Run the suites of benchmarks once, untimed, and compare this machine with the stored results.
bench:
    pytest -q bench/ --benchmark-disable
    kspacesr-rt bench gate
