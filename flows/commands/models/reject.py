"""`fewstep reject` stands beside `fewstep approve`, in the same module."""

from flows.commands.models.approve import add

__all__ = ["add"]
