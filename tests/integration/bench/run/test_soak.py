"""A long run, made short: what is seen of it adds up, and an output that is harmed is found."""

import json
import sys

import pytest

from kspacesr_rt.bench.run import soak as soak_module
from kspacesr_rt.bench.run.soak import LOOKS, SoakOptions, soak
from kspacesr_rt.errors import RegressionError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read in /proc")


@pytest.mark.parametrize("processes", [0, 1])
def test_a_run_is_looked_at_from_its_first_slice_to_its_last(processes):
    """Memory and descriptors of every process, and all outputs read again."""
    options = SoakOptions(slices=30, matrix=16, batch=2, processes=processes)
    result = soak(options)
    told = json.loads(json.dumps(result.to_dict()))
    assert result.written == 30
    done = [one["slices"] for one in told["looks"]]
    assert (done[0], done[-1], len(done)) == (1, 30, LOOKS + 1)
    for one in told["looks"]:
        assert len(one["beside_rss_mb"]) == len(one["beside_open_files"]) == processes
        assert one["rss_mb"] > 10
        assert one["open_files"] > 2
        assert one["cpu_ms"] > 0.0
        assert one["all_pss_mb"] <= one["rss_mb"] + sum(one["beside_rss_mb"]) + 1
    assert "30 outputs read again" in result.as_text()


def test_an_output_that_is_not_what_was_noted_is_found(monkeypatch):
    real = soak_module._require_whole

    def harmed(output, n_slices):
        path = min(output.glob("*/*.dcm"))
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
        return real(output, n_slices)

    monkeypatch.setattr(soak_module, "_require_whole", harmed)
    with pytest.raises(RegressionError, match="is not what the journal notes"):
        soak(SoakOptions(slices=20, matrix=16))
