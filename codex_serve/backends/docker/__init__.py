"""Docker mode: every run is a container."""
