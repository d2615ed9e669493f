"""What a cache lists, and what it loses first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from kspacesr_rt.conversion.tier_cache import TierCache
from kspacesr_rt.system.cache_folder import CacheFolder, entries_to_remove


@dataclass
class Kept:
    """An entry of so many bytes, not used for so many days."""

    size_bytes: int
    days: float
    problem: str = ""

    @property
    def last_used(self):
        return datetime.now(UTC) - timedelta(days=self.days)

    def as_text(self):
        return f"{self.size_bytes} B"


LATEST, DAMAGED, LARGE, SMALL = Kept(10, 0), Kept(99, 1, "damaged"), Kept(50, 2), Kept(1, 30)


@pytest.mark.parametrize(
    ("rule", "lost"),
    [
        ({}, [DAMAGED]),
        ({"max_bytes": 61}, [DAMAGED]),
        ({"max_bytes": 60}, [DAMAGED, SMALL]),
        # What is older than the first that has no room goes, too, though it would have some.
        ({"max_bytes": 11}, [DAMAGED, LARGE, SMALL]),
        ({"max_bytes": 0}, [LATEST, DAMAGED, LARGE, SMALL]),
        ({"older_than_days": 29}, [DAMAGED, SMALL]),
        ({"older_than_days": 31}, [DAMAGED]),
        ({"everything": True}, [LATEST, DAMAGED, LARGE, SMALL]),
    ],
)
def test_what_was_unused_for_longest_goes_first(rule, lost):
    assert list(entries_to_remove([LATEST, DAMAGED, LARGE, SMALL], **rule)) == lost


def test_a_listing_says_how_many_and_where(tmp_path):
    text = CacheFolder(tmp_path).describe([Kept(1_000_000, 0), Kept(500_000, 1)], "thing")
    assert text == f"1000000 B\n500000 B\n2 things, 1.5 MB in {tmp_path}"
    text = CacheFolder(tmp_path).describe([Kept(23_400, 0)], "thing")
    assert text.splitlines()[-1] == f"1 thing, 23.4 kB in {tmp_path}"


def test_a_converted_model_that_is_taken_is_used(tmp_path, model_file):
    """Or `cache prune --older-than-days` would take what serves every day."""
    cache, inputs = TierCache(tmp_path), {"model": "m", "precision": "int8", "backend": "b"}
    cache.keep_model(inputs, model_file.read_bytes())
    [entry] = cache.listing()
    os.utime(entry.path, (0, 0))
    assert cache.listing()[0].last_used.year == 1970
    assert cache.find_model(inputs) is not None
    assert cache.listing()[0].last_used.year > 2000
