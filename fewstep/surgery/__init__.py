"""Changes to a network that keep what it has learnt."""
