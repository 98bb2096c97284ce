"""What several terms use: distances, derivatives, features, heads, steps of a solver."""
