"""Prefect: the flows, schedules, the server, and how units of work are executed."""
