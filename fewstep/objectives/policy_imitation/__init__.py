"""Policy imitation: one network call gives a whole piece of a path, judged by the teacher's velocities along it."""
