"""Code that travels with an exported student. It imports nothing of fewstep."""
