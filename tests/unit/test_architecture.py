"""Who may import whom, as the source files say it."""

import ast
import functools
import graphlib

import pytest
from repository import ROOT
from source_tree import HEAVY, MODULES, room_of

LAYERS = (
    {"errors", "_version", "sample"},
    {"system", "kspace"},
    {"dicom", "model"},
    {"graph", "quality", "volumes"},
    {"runtime", "train"},
    {"conversion", "testing"},
    {"pipeline", "export", "diagnosis"},
    {"services", "bench.quality", "layers"},
    {"bench.run"},
    {"bench.regression", "bench.report"},
    {"cli"},
    {"__main__"},
)
"""Rooms, lowest first: each may import what lies below it, nothing beside it or above."""
TOP = {"__init__", "__main__", "_version", "errors"}
"""The modules that belong to no room."""


@functools.cache
def imports_of(path):
    """Return ``(module, is at module level)`` of every import, those for type checkers included."""
    return tuple(_imports_in(ast.parse(path.read_text())))


def _imports_in(tree):
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module, id(node) in top


FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}


def test_every_room_has_one_place():
    assert {room_of(module) for module in MODULES} - {None} == set(FLOOR)
    assert sum(len(rooms) for rooms in LAYERS) == len(FLOOR)
    assert len(LAYERS) <= 12


def test_only_a_few_modules_stand_outside_the_rooms():
    assert {path.stem for path in (ROOT / "kspacesr_rt").glob("*.py")} == TOP


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    """From any room to rooms of lower layers only, for type checkers too: no circle can be."""
    own = room_of(module)
    for name, _ in imports_of(MODULES[module]):
        if not name.startswith("kspacesr_rt"):
            continue
        other = room_of(name)
        if other is None:
            assert name == "kspacesr_rt.bench", f"{module} imports the face of the package"
        elif own is None:
            assert FLOOR[other] <= 1, f"{module} imports {name}"
        else:
            assert other == own or FLOOR[other] < FLOOR[own], f"{module} imports {name}"


def test_no_circle_is_left_within_a_room():
    """Whoever reads one module must not have to read it through another one first."""
    imported = {
        module: {name for name, _ in imports_of(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_load_only_where_they_are_used(module):
    """Torch lives in train/ and export/; an inference library is imported inside `open`."""
    for name, at_top in imports_of(MODULES[module]):
        library = name.split(".")[0]
        if library == "torch":
            assert room_of(module) in ("train", "export"), f"{module} imports torch"
        elif library in HEAVY:
            assert not at_top, f"{module} imports {library} when it is itself imported"
