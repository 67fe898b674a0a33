"""Recipes: how names and tensors change, as data."""
