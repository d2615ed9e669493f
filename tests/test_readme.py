"""The README says the truth: its commands, its tables, its tree."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kspacesr_rt.bench.readme import with_tables
from kspacesr_rt.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


GROUPS = {"bench": ("compare", "gate"), "cache": ("ls", "add", "prune")}
"""Commands that have commands of their own."""


def fenced(marker):
    return re.search(rf"<!-- command: {marker} -->\n```sh\n(.*?)\n```", README, re.DOTALL)[1]


def test_tables_are_what_the_result_files_say():
    """A figure that nobody measured, or that was not updated, does not survive."""
    assert with_tables(README, ROOT / "bench" / "results") == README


def test_every_command_and_option_it_names_exists():
    """A reader copies lines from here."""
    lines = re.findall(r"^kspacesr-rt (.*)$", README, re.MULTILINE)
    assert len(lines) >= 9
    for line in lines:
        words = line.split("#")[0].split()
        inner = [word for word in words[1:2] if word in GROUPS.get(words[0], ())]
        command = [words[0], *inner]
        helped = CliRunner().invoke(app, [*command, "--help"], terminal_width=200)
        assert helped.exit_code == 0, line
        for option in [word for word in words if word.startswith("--")]:
            assert option in helped.stdout, line


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


def test_ci_runs_the_readmes_own_test_command():
    """`.ci/run` takes the line from here, so the two cannot drift apart."""
    assert "pytest" in fenced("test")
    assert "command: test" in (ROOT / ".ci" / "run").read_text()


def test_the_tree_names_every_module():
    """One line each; a new module shows up here or the README is stale."""
    tree = README.split("## What is where")[1]
    for path in (ROOT / "kspacesr_rt").iterdir():
        if path.suffix == ".py" and not path.name.startswith("_"):
            assert path.name in tree, path.name


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    """Pictures, cards and folders are there."""
    assert (ROOT / link).exists()
