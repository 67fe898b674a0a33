"""Deployable packages: weights with everything needed to trust, read and refuse them."""
