"""Commands that schedule and serve."""
