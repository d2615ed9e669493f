"""Where the repository is."""

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
"""Modules that tests share; other processes find them here."""
ROOT = SUPPORT.parents[1]
"""The checkout."""
