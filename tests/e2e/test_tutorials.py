"""The tutorials say the truth: a beginner can do what they say, to the end."""

import pytest
from page_commands import Reader, pages, runnable

PAGES = {page: path for page, path in pages().items() if page.startswith("docs/tutorials/")}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One for all tutorials, so that a backend is verified once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("page", PAGES)
def test_a_beginner_comes_to_the_end(page, tmp_path, cache, warm_programs):
    """Every block that can run here runs, in the order of its page."""
    with Reader(tmp_path / "clone", cache, programs=warm_programs) as reader:
        for block in runnable(PAGES[page]):
            reader.run(block, page)
