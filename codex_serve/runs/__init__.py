"""Runs, whatever executes them."""
