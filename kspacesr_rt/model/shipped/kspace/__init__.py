"""Models of k-space in the wheel, with their cards."""
