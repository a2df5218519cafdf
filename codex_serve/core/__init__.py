"""Values and pure functions: no trio, no web framework."""
