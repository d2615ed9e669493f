"""Enhanced MR: many frames in one file, in and out."""
