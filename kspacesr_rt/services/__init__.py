"""What runs for months: a DICOM node, a watched folder, a router's module."""
