"""`fewstep reject` stands beside `fewstep approve`, in the same module."""

from flows.commands.approve import add

__all__ = ["add"]
