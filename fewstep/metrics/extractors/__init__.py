"""Feature extractors: by name and digest, from local files, and a cache of the features that they saw."""
