"""The registered form of a student: an MLflow model, pictures of its samples, and whether it is sound."""
