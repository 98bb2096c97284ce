"""Self-adversarial: one network models the data's flow at positive times, that of its own samples at negative ones."""
