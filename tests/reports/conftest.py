"""The labs of `tests/lab`."""

from tests.lab.conftest import make_lab

__all__ = ["make_lab"]
