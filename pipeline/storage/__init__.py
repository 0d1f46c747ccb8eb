"""Where a run directory is kept: paths (local or object store), durable files, the lock."""
