"""The service: question in, grounded context out. The top layer."""

__version__ = "0.1.0"
