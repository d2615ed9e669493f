"""Is it slower or worse than before: the gate, the baseline, comparisons."""
