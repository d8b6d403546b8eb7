"""What must hold when things go wrong, tried in thousands of seeded draws: `python -m tests.reliability --help`."""
