"""Detectors: pure and streaming. They see one point after the other, never the ones to come."""
