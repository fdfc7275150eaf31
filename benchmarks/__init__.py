"""
What tracelet costs, measured.

Each module prints one row of the figures in README and can be run alone:
``python -m benchmarks.add_scalar --quick``. ``python -m benchmarks`` runs them all.

Nothing here is a test: a shared machine has no absolute speed. What can be compared is compared
in pairs, the two sides in turn within one run, and printed with its interval.
"""
