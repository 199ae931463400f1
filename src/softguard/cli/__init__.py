"""The command line: parses, shows, exits. Work is done in `recipes`."""
