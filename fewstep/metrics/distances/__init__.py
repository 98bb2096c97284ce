"""Distances between two sets of samples or features, and figures of a set's diversity and memorisation."""
