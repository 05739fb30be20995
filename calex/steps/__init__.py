"""One file a command: flags and paths at the edge, arrays inside. A step imports only what it needs."""
