"""How often the semantic cache is right, and why: `python -m benchmarks.semantic_pairs`."""
