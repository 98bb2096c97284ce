"""Adversarial: heads on inner features tell noised samples of the student from noised real ones."""
