"""The models shipped in the wheel, each with its card."""
