"""The contract of a backend, one group of clauses per module."""
