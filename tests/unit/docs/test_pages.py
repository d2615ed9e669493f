"""The pages: what they name exists, and what of them is not run says why."""

import importlib.util
import re

import page_commands
import pytest
import typer
from page_commands import REASONS, blocks_of, commands_of
from repository import ROOT

from kspacesr_rt.cli import app

PAGES = page_commands.pages()
COMMANDS = typer.main.get_command(app).commands
MARKERS = ("", "not run", "until", "command")
NAMED = ("infer", "test", "plug-in")
"""Blocks that tests of their own run."""


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_has_a_reason(page):
    """A block cannot escape by a word that means nothing."""
    for block in blocks_of(PAGES[page].read_text()):
        assert block.marker in MARKERS, f"{page}:{block.line}: {block.marker}"
        if block.marker == "not run":
            assert block.told in REASONS, f"{page}:{block.line}: {block.told}"
        if block.marker == "command":
            assert block.told in NAMED, f"{page}:{block.line}"


def test_most_blocks_are_run():
    """Reasons are for the few."""
    blocks = [block for path in PAGES.values() for block in blocks_of(path.read_text())]
    run = [block for block in blocks if block.marker in ("", "until")]
    assert len(blocks) > 50
    assert len(run) > 0.55 * len(blocks), f"{len(run)} of {len(blocks)}"


def test_no_block_is_overlooked():
    """A fence that the pattern misses would never be run."""
    for page, path in PAGES.items():
        text = path.read_text()
        opened = re.findall(r"^ *```(?:sh|python|bash|shell|console|py)\b.*$", text, re.MULTILINE)
        assert len(opened) == len(blocks_of(text)), page


def options_of(words):
    """Return the options of the command that some words name; None if there is none."""
    command = COMMANDS.get(words[0])
    command = getattr(command, "commands", {}).get(words[1] if len(words) > 1 else "", command)
    if command is None:
        return None
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts)}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_exists(page):
    """Also in blocks that are not run, and in the text."""
    text = PAGES[page].read_text()
    calls = [words for block in blocks_of(text) for words in commands_of(block)]
    calls += [found.split() for found in re.findall(r"`kspacesr-rt ([^`]+)`", text)]
    for words in calls:
        if words[0].startswith("-") or not words[0].islower():
            continue  # `kspacesr-rt --version`, `kspacesr-rt COMMAND`
        options = options_of(words)
        assert options is not None, f"{page}: kspacesr-rt {' '.join(words)}"
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in options, f"{page}: kspacesr-rt {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Pages, pictures, cards and folders are there; MkDocs looks at anchors."""
    path = PAGES[page]
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(<?((?!http|#|mailto)[^)#>]+)", text):
        assert (path.parent / link).exists(), f"{page}: {link}"


def github_anchors(text):
    """Return the anchors of a page's headings as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES)
def test_anchors_lead_somewhere_on_github_too(page):
    """Its anchors keep what MkDocs drops: two hyphens of an option in a heading, say."""
    path = PAGES[page]
    text = path.read_text()
    for link, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#([^)\s]+)\)", text):
        target = path if not link else path.parent / link
        found = text if target == path else target.read_text()
        assert anchor in github_anchors(found), f"{page}: {link}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_no_line_ends_with_a_blank(page):
    """The hooks that check a commit would change a generated page, and the generator change it."""
    lines = PAGES[page].read_text().splitlines()
    assert [number for number, line in enumerate(lines, 1) if line != line.rstrip()] == []


@pytest.mark.parametrize("page", ["STYLE.md", "CONTRIBUTING.md"])
def test_modules_and_files_that_rules_name_are_there(page):
    """An example that points to nothing teaches nothing."""
    text = (ROOT / page).read_text()
    for module, name in re.findall(r"from (kspacesr_rt[\w.]*) import (\w+)", text):
        assert hasattr(importlib.import_module(module), name), f"{page}: {module}.{name}"
    for module in re.findall(r'"(kspacesr_rt\.[\w.]+)"', text):
        assert importlib.util.find_spec(module) is not None, f"{page}: {module}"
    files = {path.name for path in ROOT.rglob("*.md")}
    for name in re.findall(r"\b[A-Z]{3,}\.md\b", text):
        assert name in files, f"{page}: {name}"
