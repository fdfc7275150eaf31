"""
What the backends share that write plain files: no tracker, but the tools of three of them.

A run's lines or records go into a file that only grows (``appended``, ``lines``, ``journal``), its
media and artifacts beside it (``files``), under names that every system takes (``names``,
``places``).
"""
