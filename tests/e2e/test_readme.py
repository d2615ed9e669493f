"""The README says the truth, and is short: its two commands, its tables."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from repository import ROOT

from kspacesr_rt.bench.quality.comparison_picture import comparison
from kspacesr_rt.bench.report.readme import with_tables
from kspacesr_rt.model.file import load_model, resolve_model

README = (ROOT / "README.md").read_text()


def fenced(marker):
    return re.search(rf"<!-- command: {marker} -->\n```sh\n(.*?)\n```", README, re.DOTALL)[1]


def test_tables_are_what_the_result_files_say():
    """A figure that nobody measured, or that was not updated, does not survive."""
    for page in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        text = page.read_text()
        assert "<!-- table: " in text
        assert with_tables(text, ROOT / "bench" / "results") == text, page


def test_the_first_command_runs_on_the_shipped_sample(tmp_path):
    """The last part of the one-line set-up, as written, from the root of a clone."""
    command = fenced("infer").split("&&")[-1].replace(" out ", f" {tmp_path / 'out'} ")
    # The environment the tests run in need not be activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "20 slices written in 1 series" in done.stdout
    assert "skipped" not in done.stdout
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 20
    assert len(list((tmp_path / "out").glob("preview-*.png"))) == 1


def test_the_picture_is_what_its_caption_draws():
    """Same panels, and what a visitor's own machine computes looks the same."""
    caption = re.search(r"`kspacesr-rt (evaluate [^`]*)`", README)[1].split()
    words = ["evaluate", "kspacesr_rt/sample/ge_pd", "--model", "x4-fast", "--picture"]
    assert caption == [*words, "docs/comparison.png"]
    model = load_model(resolve_model("x4-fast", upscale=None))
    # The picture alone: the figures of the other slices take time.
    made = comparison(ROOT / caption[1], model, threads=1)
    with (
        Image.open(ROOT / "docs" / "comparison.png") as committed,
        Image.open(io.BytesIO(made)) as drawn,
    ):
        assert drawn.size == committed.size
        pixels = [np.asarray(one.convert("L"), np.float64) for one in (committed, drawn)]
    # Grey levels; another Pillow sets the labels a little otherwise.
    assert np.mean(np.abs(pixels[0] - pixels[1])) < 1


def test_ci_runs_the_readmes_own_test_command():
    """`.ci/run` takes the line from here, so the two cannot drift apart."""
    assert "pytest" in fenced("test")
    assert "command: test" in (ROOT / ".ci" / "run").read_text()


def test_it_is_read_in_five_minutes():
    """What does not fit is a page of the docs."""
    assert len(README.splitlines()) <= 150
