"""Consistency: predictions at two points of one path agree, the nearer one being the target."""

from fewstep.terms.consistency.levels import nearer
from fewstep.terms.consistency.term import Consistency

__all__ = ["Consistency", "nearer"]
