"""Commands on data and recipes."""
