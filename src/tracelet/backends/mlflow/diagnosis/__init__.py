"""
What is wrong with a store, found without MLflow's SDK and without changing anything.

The start of a run asks the part of it that takes no time; ``tracelet doctor`` asks all of it.
"""

from __future__ import annotations
