"""One file a subcommand, imported when called."""
