"""Processes that read slices and write outputs beside the one that computes.

One process runs Python in one thread at a time; these share nothing with it but a file's worth of
memory each, for samples. What decides about a run (order, names, the journal, the report, what is
synced) stays in the run's process. A process that is lost costs nothing but time, or the one slice
that takes a second one with it.
"""
