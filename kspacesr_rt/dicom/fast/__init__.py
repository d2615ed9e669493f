"""Readers that look at what is needed and no more, and fall back to pydicom."""
