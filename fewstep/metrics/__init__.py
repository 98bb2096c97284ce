"""Distances between samples and reality, each with the protocol it was measured under."""
