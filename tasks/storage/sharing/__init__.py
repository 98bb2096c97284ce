"""What hosts share through one object store: who holds what, unfinished work, finished outputs."""
