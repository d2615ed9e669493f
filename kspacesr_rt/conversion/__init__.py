"""From a model file to one of another precision or lowering, proved by the gate; no torch."""
