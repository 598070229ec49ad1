"""Connectors: one file each, they do not know each other. `open_connector` picks by kind."""
