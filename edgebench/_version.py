"""The one place that says which edgebench this is."""

__version__ = "0.1.0"
