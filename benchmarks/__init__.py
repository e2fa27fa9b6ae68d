"""Measurements: each module is a script, see README.md beside it."""
