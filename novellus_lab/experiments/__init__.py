"""Experiments: comparisons of arms, evaluation from the log, benchmarks."""
