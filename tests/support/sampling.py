"""``pytest --sample``: of every test marked `matrix`, a few combinations of its parameters."""

from __future__ import annotations

import pytest
from covering import covering


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--sample",
        action="store_true",
        help="of tests marked `matrix`, run a few in which every two values still meet",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a sample of every matrix; the others are counted as deselected."""
    if not config.getoption("--sample"):
        return
    matrices: dict[str, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("matrix"):
            matrices.setdefault(item.nodeid.split("[")[0], []).append(item)
    left_out: set[pytest.Item] = set()
    for matrix in matrices.values():
        marker = matrix[0].get_closest_marker("matrix")
        cases = [_values(item) for item in matrix]
        left_out |= set(matrix) - {matrix[at] for at in covering(cases, **marker.kwargs)}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _values(item: pytest.Function) -> dict[str, str]:
    """Return the values of each ``parametrize``: those that it sets together are one value."""
    values = {}
    for marker in item.iter_markers("parametrize"):
        names = marker.args[0]
        group = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
        values[",".join(group)] = repr([item.callspec.params[name] for name in group])
    return values
