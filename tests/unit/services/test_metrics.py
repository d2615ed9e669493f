"""``/metrics`` is what Prometheus' own client reads: names, labels, numbers and kinds."""

import math

import pytest

from kspacesr_rt.services.metrics import COUNTERS, PREFIX, Metrics

parser = pytest.importorskip("prometheus_client.parser", reason="reads the format its own way")
DIFFICULT = 'a quote ", a backslash \\, a line\nand µ'


def read(metrics):
    """Return ``(kind, meaning, {labels: value})`` of each name, as Prometheus' parser has them."""
    return {
        family.name: (
            family.type,
            family.documentation,
            {tuple(sorted(one.labels.items())): one.value for one in family.samples},
        )
        for family in parser.text_string_to_metric_families(metrics.as_text())
    }


def test_every_counter_is_there_before_anything_was_counted():
    """A rate over a counter that appears with its first event misses that event."""
    found = read(Metrics())
    assert {f"{name}_total" for name in found} == {PREFIX + name for name in COUNTERS}
    for name, meaning in COUNTERS.items():
        assert found[(PREFIX + name).removesuffix("_total")] == ("counter", meaning, {(): 0.0})


def test_labels_come_back_as_they_were_given_whatever_is_in_them():
    """One label that breaks out of its quotes would cost the whole page."""
    metrics = Metrics()
    metrics.count("forward_failures_total", target=DIFFICULT, reason="refused")
    metrics.count("forward_failures_total", 2, target="PACS@10.0.0.1:104", reason="refused")
    kind, _, samples = read(metrics)[f"{PREFIX}forward_failures"]
    assert kind == "counter"
    assert samples == {
        (("reason", "refused"), ("target", DIFFICULT)): 1.0,
        (("reason", "refused"), ("target", "PACS@10.0.0.1:104")): 2.0,
    }


@pytest.mark.parametrize("value", [0.0, -1.5, 50_000_000_000.0, 0.1, 1e-9, math.inf, 2.0**53 - 1])
def test_gauges_come_back_with_their_number(value):
    """Bytes of a spool need more digits than ``%g`` has."""
    metrics = Metrics()
    metrics.gauge("spool_bytes", "Bytes in the spool.", lambda: {(): value})
    found = read(metrics)[f"{PREFIX}spool_bytes"]
    assert found == ("gauge", "Bytes in the spool.", {(): value})
