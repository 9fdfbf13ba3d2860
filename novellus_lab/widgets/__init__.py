"""Widgets for notebooks: compare, play, look through the log, watch it."""
