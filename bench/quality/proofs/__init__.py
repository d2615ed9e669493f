"""Proof, or disproof, that detail which a model adds is real."""
