"""The table of networks is of the zoo, whole, and says what was measured."""

import re

import network_table
import network_zoo
import pytest

ROW = re.compile(
    r"^\| (\w+) \| ([^|]+) \| (yes|no|not tried) \| (\d*|does not run) \| (\d*|does not run) \|",
    re.M,
)


@pytest.fixture(scope="module")
def part():
    text = network_table.PAGE.read_text()
    return text.split(network_table.BEGIN)[1].split(network_table.END)[0]


def test_every_network_has_its_row(part):
    """What fails is not left out."""
    found = [f"{family}: {name}" for family, name, *_ in ROW.findall(part)]
    assert found == [one.id for one in network_zoo.networks()]


def test_the_sum_is_that_of_the_rows(part):
    """Counted again: exported, and at 100 dB on both runtimes."""
    rows = ROW.findall(part)
    tried = [row for row in rows if row[2] != "not tried"]
    right = [
        row
        for row in rows
        if row[2] == "yes" and all(f.isdigit() and int(f) >= 100 for f in row[3:])
    ]
    assert re.search(rf"\b{len(right)} of {len(tried)} networks export", part)
    assert f"; {len(rows) - len(tried)} more were not tried yet" in part


def test_what_fails_has_a_reason(part):
    """A bare no helps nobody."""
    for text in part.splitlines():
        if "| no |" in text:
            assert text.rstrip(" |").split("|")[-1].strip(), text


def row_of(**changes):
    row = {"id": "own: a", "exported": True, "parity": {"ort-cpu": 120.4, "openvino": 101.0}}
    return {**row, "fixed": None, "multiple": 1, "single": False, "why": "", **changes}


def test_rows_are_counted_as_they_are():
    """A runtime that is missing, or worse, does not count as right."""
    assert network_table.passed(row_of())
    assert not network_table.passed(row_of(parity={"ort-cpu": 120.0}))
    assert not network_table.passed(row_of(parity={"ort-cpu": 120.0, "openvino": 99.9}))
    assert not network_table.passed(row_of(exported=False, why="a reason"))


def test_rows_read_as_they_should():
    assert network_table.line(row_of()) == "| own | a | yes | 120 | 101 | any |  |"
    assert "| any, padded to multiples of 8 |" in network_table.line(row_of(multiple=8))
    assert "| 48 x 48 only | slice by slice |" in network_table.line(
        row_of(fixed=[48, 48], single=True)
    )
    assert (
        network_table.line(row_of(exported=False, why="a | b"))
        == "| own | a | no |  |  |  | a / b |"
    )
