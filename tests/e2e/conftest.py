"""Fixtures of every test here, and their order."""

from open_things import nothing_is_left_open

LONGEST = (
    *("test_tutorials.py", "test_docs.py", "test_ray_engine.py", "test_faults.py", "test_watch.py"),
    *("test_training_interruption.py", "test_image.py", "test_packaging.py", "test_dwv.py"),
)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest: side by side, they are not waited for at the end."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
