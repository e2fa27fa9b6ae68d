"""Corrections of finished runs: what a person changed, and what follows from it."""
