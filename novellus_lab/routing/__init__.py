"""Who shall answer: strategies over candidates (floor 1)."""
