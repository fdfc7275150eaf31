"""From the spool to a backend: one loop, three hosts (a sidecar process, a thread, ``sync``)."""
