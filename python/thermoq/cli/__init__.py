"""The command line: options in, one library call, a few lines out. No logic lives here."""
