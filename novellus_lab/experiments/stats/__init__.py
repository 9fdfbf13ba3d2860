"""The statistics of experiments: pure functions over arrays, frozen results, nothing read or written.

Estimators return an `Estimate` (estimate.py) at a `Confidence` (confidence.py), which is for one look
at the end or for as many as you like. docs/statistics.md has the formulas, their sources, and which
is used when.
"""

from novellus_lab.errors import MissingDependencyError

try:
    import numpy
    import scipy.special
except ImportError as error:
    raise MissingDependencyError(
        "The statistics of experiments need NumPy and SciPy: pip install 'novellus_lab[experiments]'"
    ) from error

del numpy, scipy
