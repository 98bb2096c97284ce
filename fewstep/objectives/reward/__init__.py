"""Reward: the student's samples climb a differentiable function of the sample."""
