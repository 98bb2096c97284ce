"""Exact checkpoints of a round: copied between two steps, written and hashed beside the training, committed last."""
