"""Flow matching: the velocity of the straight path between a noise and a sample."""
