"""Experiments for the teachers that people have, and what makes the data and the teacher of the one that is shown whole
(`emoji`)."""
