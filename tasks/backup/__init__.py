"""A project in a folder, and back: databases, records, the git repository, and the data that registered versions need.
What lies on this disk alone is copied; what an object store holds is listed and looked for."""
