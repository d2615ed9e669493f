"""Fixtures of every test here, and their order."""

from longest_first import longest_first
from open_things import nothing_is_left_open

LONGEST = (
    *("test_zoo.py", "test_complex_operators.py", "test_convert.py", "test_multi_frame.py"),
    *("test_module_export.py", "test_slice_processes.py", "test_engines.py", "test_training.py"),
    *("test_graph_memory.py", "test_shipped_models.py"),
)


def pytest_collection_modifyitems(items):
    longest_first(items, LONGEST)
