"""Fixtures of every test here, and their order."""

from longest_first import longest_first
from open_things import nothing_is_left_open
from warm_process import _warm_process, from_a_warm_process, warm_programs

LONGEST = (
    *("test_tutorials.py", "test_docs.py", "test_ray_engine.py", "test_faults.py", "test_watch.py"),
    *("test_training_interruption.py", "test_image.py", "test_packaging.py", "test_dwv.py"),
)


def pytest_collection_modifyitems(items):
    longest_first(items, LONGEST)
