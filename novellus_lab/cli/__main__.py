"""`python -m novellus_lab.cli` is `novellus`."""

from novellus_lab.cli.main import app

if __name__ == "__main__":
    app()
