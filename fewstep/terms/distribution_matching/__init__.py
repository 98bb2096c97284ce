"""Distribution matching: the student's distribution follows the difference of two scores to the teacher's."""

from fewstep.terms.distribution_matching.term import DistributionMatching

__all__ = ["DistributionMatching"]
