"""How students and training-free solvers are measured and compared: the work of the stages baselines and evaluate, of
which the gate uses a part, and the documents that hold the results."""
