"""Networks as people write them and as packages have them: exported, and run as PyTorch runs them.

These are the few that have most of what is difficult between them; all of them are tried by
`tests/support/network_table.py`, which writes `docs/reference/networks.md`. Each is exported in a
process of its own, a fork of this one, and its file is compared with PyTorch here, at matrices,
batches and on runtimes that the export did not see.
"""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial

import network_table
import network_zoo
import numpy as np
import own_networks
import pytest
from network_table import REQUIRED_DB

NETWORKS = {one.id: one for one in network_zoo.networks()}
TRIED = (
    "own: shifted-window transformer",
    "own: fast Fourier convolution",
    "monai: SegResNet",
    "spandrel: MoSR",
    "spandrel: SPAN",
    "spandrel: SAFMN",
    "fastmri: NormUnet",
)
SMALLER = {
    "own: shifted-window transformer": partial(own_networks.WindowTransformer, shifts=(0, 4))
}
"""One block of each kind, where the page's network has two: half the time to trace."""


@pytest.mark.parametrize("name", TRIED)
def test_a_network_is_exported_and_computes_the_same(name):
    """Two even matrices, an odd and a rectangular one, one slice and three, on both runtimes."""
    if (reason := NETWORKS[name].why_not()) is not None:
        pytest.skip(reason)
    network = NETWORKS[name]
    if name in SMALLER:
        network = dataclasses.replace(network, make=SMALLER[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that others have written
        computes_the_same(network_table.measured(network))


def test_a_row_of_the_page_is_measured_in_a_process_of_its_own():
    """What a package changes of torch, or a network that dies, must not reach the next row."""
    computes_the_same(network_table.tried(NETWORKS["own: spectral gates"]))


def computes_the_same(row):
    assert row["exported"], row["why"]
    assert row["parity"].keys() == set(network_table.BACKENDS)
    assert min(row["parity"].values()) >= REQUIRED_DB, row
    assert row["matrices"] == len(network_table.MATRICES)


@pytest.mark.parametrize("name", [one for one in NETWORKS if one.startswith("own: ")])
def test_our_own_copies_of_them_are_functions_of_their_input(name):
    """A network that draws numbers, or forgets its seed, would be compared with another one."""
    import torch

    batch = torch.from_numpy(network_table.images(2, (32, 48)))
    with torch.inference_mode():
        first, second = NETWORKS[name]()(batch), NETWORKS[name]()(batch)
    assert first.shape == (2, 1, 64, 96)
    assert torch.equal(first, second)


def test_the_images_they_are_tried_on_differ():
    """Equal slices would hide a mix-up of a batch."""
    batch = network_table.images(3, (45, 37))
    assert batch.shape == (3, 1, 45, 37)
    assert all(np.abs(batch[a] - batch[b]).max() > 0.05 for a, b in ((0, 1), (1, 2), (0, 2)))


def test_a_row_of_the_page_is_read_as_it_was_written():
    """What is not measured again must stay, with its figures and its reason."""
    rows = network_table.page_rows()
    assert rows.keys() == NETWORKS.keys()
    written = network_table.PAGE.read_text()
    for row in rows.values():
        assert network_table.line(row) in written
    assert f"{network_table.page_of([rows[one] for one in NETWORKS])}" in written


def test_parity_is_that_of_the_definition():
    """Root mean square over the largest sample of the reference, in dB."""
    expected = np.array([0.0, 2.0, -4.0, 4.0], np.float32)
    found = expected + np.float32([0.04, -0.04, 0.04, -0.04])
    assert network_table.parity(found, expected) == pytest.approx(40.0, abs=1e-3)
    assert network_table.parity(expected, expected) == np.inf
