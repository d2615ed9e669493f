"""A clock and a spool."""

from node_fixtures import clock, spool
