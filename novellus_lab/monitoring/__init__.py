"""Health and anomalies (floor 3)."""
