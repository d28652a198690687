"""The technician's screen for one box; talks to its control socket and imports nothing of it."""
