"""Bytes of one document to elements: parsers, and the jail that runs each of them in a throw-away child."""
