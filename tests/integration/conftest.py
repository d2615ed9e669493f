"""Fixtures of every test here."""

from open_things import nothing_is_left_open
