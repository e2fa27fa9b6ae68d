"""Masks against a data set: J, F, J&F and Dice."""
