"""What one does with tensor dictionaries."""
