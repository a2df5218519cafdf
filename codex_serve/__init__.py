"""codex.serve: runs AI command-line tools on request and streams what they say."""

__version__ = "0.1.0"
