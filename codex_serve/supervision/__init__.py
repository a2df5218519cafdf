"""Starting a command so that nothing of it outlives its run."""
