"""What a graph says about a weight: names, roles, owners."""
