"""Weights as another framework names and lays them out, as far as it is known what each is for."""
