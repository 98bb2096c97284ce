"""Bootstrapping: without any data, the student learns the signal along the trajectory of each noise."""
