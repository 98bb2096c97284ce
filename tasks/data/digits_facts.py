"""What is known of scikit-learn's handwritten digits before they are loaded. No torch here."""

SHAPE = (1, 8, 8)
"""Channels, height, width."""
CLASSES = tuple(str(digit) for digit in range(10))
