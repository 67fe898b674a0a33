"""Wire-level parsers and builders: bytes in, structures out."""
