"""One training step: its keyed draws, noise levels, batch and the predictions that its terms share."""
