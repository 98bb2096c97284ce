"""The networks of a run, by role: what is trained, fresh, averaged, fitted or taken from a teacher."""
