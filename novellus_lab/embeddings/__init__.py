"""Texts to vectors without a provider: offline, on the CPU (floor 1)."""
