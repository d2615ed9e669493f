"""A benchmark's result for readers: tables, Markdown, one HTML page."""
