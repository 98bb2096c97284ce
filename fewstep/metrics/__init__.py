"""Distances between samples and reality, each with the protocol it was measured under. `evaluator` measures a model;
`protocol` is what a value is stored and compared with, and needs no torch."""
