"""The order of test files: side by side, the longest are not waited for at the end."""

from collections.abc import Sequence

import pytest


def longest_first(items: list[pytest.Item], longest: Sequence[str]) -> None:
    """Begin with the files that take longest, by name; the others follow as they are."""
    place = {name: number for number, name in enumerate(longest)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
