"""One module per format, each with one exported record, `FORMAT`."""
