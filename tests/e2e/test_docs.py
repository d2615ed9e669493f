"""The pages say the truth: a reader can do what they say."""

import pytest
from page_commands import Reader, pages, runnable

PAGES = {
    page: path
    for page, path in pages().items()
    if runnable(path) and not page.startswith("docs/tutorials/")
}
"""Tutorials are long, and have a file of their own: two tests then go on side by side."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One for all pages, so that a backend is verified once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("page", PAGES)
def test_a_reader_can_do_what_a_page_says(page, tmp_path, cache, warm_programs):
    """Every block that can run here runs, in the order of its page."""
    with Reader(tmp_path / "clone", cache, programs=warm_programs) as reader:
        for block in runnable(PAGES[page]):
            reader.run(block, page)
