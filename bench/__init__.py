"""Latency beside image quality: benchmark suites and quality tables."""
