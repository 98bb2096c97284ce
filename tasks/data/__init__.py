"""Data from outside: image files, their import and decoding, and the files of feature extractors."""
