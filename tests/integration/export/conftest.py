"""Fixtures of every test here."""

from torch_exporter import _exporter_is_loaded
