"""The term: its two turns, and how its settings choose among the equations of this folder."""
