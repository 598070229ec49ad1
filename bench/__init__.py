"""Measurements with their method. Not part of the tests."""
