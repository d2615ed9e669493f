"""A clock, a spool and a receiver alone."""

from node_fixtures import clock, receiver, spool
