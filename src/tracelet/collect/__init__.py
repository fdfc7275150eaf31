"""Facts that nobody logged: what was running, of which code, on which machine."""
