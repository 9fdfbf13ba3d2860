"""`novellus`: the command line, a file for each group of commands."""

from novellus_lab.cli.main import app

__all__ = ["app"]
