"""The version, apart from the package's lazy exports: reading it loads nothing else."""

__version__ = "0.1.0"
