"""The response cache: keys, entries and tiers (floor 1)."""
