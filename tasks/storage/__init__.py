"""Where bytes lie: the workspace, whole files, locks, git, DVC and the object store."""
