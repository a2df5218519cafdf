"""Child processes that leave nothing behind. Knows no HTTP and no run."""
