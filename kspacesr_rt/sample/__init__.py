"""A shipped proton-density series to try the tool on; see LICENSE."""
