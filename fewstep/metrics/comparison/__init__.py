"""Comparisons of two models under one protocol: paired differences, non-inferiority, equal cost."""
