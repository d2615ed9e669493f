"""What a test leaves open is told in its own file."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_open():
    """Collect what a file of tests has left: Python warns of files, sockets and processes then.

    It would do so in whatever test runs when it collects by itself, and that test would fail. What
    is there before the file is not walked over for it: with torch that is a million objects.
    """
    gc.freeze()
    yield
    gc.collect()
