"""Processes that people start."""
