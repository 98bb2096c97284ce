"""Features: a smaller student follows the teacher stage by stage, and in its output."""
