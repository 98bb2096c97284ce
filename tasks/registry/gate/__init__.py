"""Promotion: what a version must be, the test against the champion, and decisions that wait for a person."""
