"""What a watch refuses before it opens anything."""

import pytest

from kspacesr_rt.errors import InputError
from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.services.watch import WatchOptions, watch


def test_outputs_that_are_collected_must_be_durable(tmp_path):
    """One that a power cut took would be taken for one that was collected, and never be missed."""
    with pytest.raises(InputError, match="a power cut may have lost it") as caught:
        watch(
            tmp_path,
            tmp_path / "out",
            InferOptions(backend="zero-fill", durability="none"),
            WatchOptions(collected=True),
        )
    assert caught.value.hint == "--durability batch"
    assert not (tmp_path / "out").exists()
