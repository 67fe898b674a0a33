"""Recipes proposed for a source and a target that nobody has mapped yet."""
