"""The order of the tests here."""

from longest_first import longest_first

LONGEST = ("test_numbers.py", "test_commands.py", "test_smoke.py")


def pytest_collection_modifyitems(items):
    longest_first(items, LONGEST)
