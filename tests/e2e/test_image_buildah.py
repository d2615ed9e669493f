"""`deploy/Dockerfile.cpu` built by a container engine that needs no daemon: buildah.

``KSPACESR_RT_PYTHON_IMAGE`` names the image that it begins with, which must be there: pulled, or
made of Debian's packages as docs/how-to/services.md says. Its steps need a package index, so this
test is only run where it was asked for; `test_image.py` runs the same steps anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from repository import ROOT

BASE = os.environ.get("KSPACESR_RT_PYTHON_IMAGE", "")
IMAGE = "localhost/kspacesr-rt:tested"
SECONDS = 1500
SERIES = """
sample=$(python -c 'from kspacesr_rt.sample import sample_folder; print(sample_folder())')
kspacesr-rt infer "$sample" /var/lib/kspacesr/out --backend openvino --on-interpolated warn --json
code=$?
id -u
exit $code
"""


def buildah(*words):
    return subprocess.run(
        ["buildah", *words], capture_output=True, text=True, timeout=SECONDS, check=False
    )


@pytest.fixture(scope="module")
def image():
    """Return the name of the image, built."""
    if not BASE:
        pytest.skip("KSPACESR_RT_PYTHON_IMAGE names no image to begin with")
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed")
    words = ["--format", "docker", "--isolation", "chroot", "--build-arg", f"PYTHON={BASE}"]
    file = str(ROOT / "deploy/Dockerfile.cpu")
    done = buildah("build", *words, "--file", file, "--tag", IMAGE, str(ROOT))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    yield IMAGE
    buildah("rmi", "--force", IMAGE)


def test_the_image_says_what_an_engine_needs(image):
    """User, entry point, signal and health check, as written."""
    settings = json.loads(buildah("inspect", "--type", "image", image).stdout)["Docker"]["config"]
    assert settings["User"] == "10001:10001"
    assert settings["Entrypoint"] == ["kspacesr-rt"]
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Healthcheck"]["Test"][:2] == ["CMD", "kspacesr-rt"]


def test_a_series_runs_in_it_as_its_user(image):
    container = buildah("from", image).stdout.strip()
    try:
        done = buildah("run", "--isolation", "chroot", container, "--", "sh", "-c", SERIES)
    finally:
        buildah("rm", container)
    assert done.returncode == 0, done.stdout + done.stderr
    report, user = done.stdout.splitlines()
    assert json.loads(report)["exit_code"] == 0
    assert user == "10001"
