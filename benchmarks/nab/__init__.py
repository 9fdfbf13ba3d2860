"""The Numenta Anomaly Benchmark: `python -m benchmarks.nab`."""
