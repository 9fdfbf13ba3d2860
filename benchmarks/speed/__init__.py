"""How fast the package is, each figure beside a floor or a peer: `python -m benchmarks.speed`."""
