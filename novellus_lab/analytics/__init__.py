"""Questions to the log (floor 3)."""
