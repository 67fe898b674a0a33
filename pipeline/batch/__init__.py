"""Many conversions: what is found below a root, planned, done and written down."""
