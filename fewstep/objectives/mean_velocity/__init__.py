"""Mean velocity: a network of two times learns the displacement of the flow between them over their distance."""
