"""
What the backends share that write plain files: no tracker, but what three of them are made of.

The folder is the user's (``backend``, ``folder``). A run's lines or records go into a file that
only grows (``appended``, ``lines``, ``journal``), its media and artifacts beside it (``files``),
under names that every system takes (``names``, ``places``).
"""
