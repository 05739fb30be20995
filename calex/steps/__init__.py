"""One file a verb: flags and paths at the edge, arrays inside. A step imports only what it needs."""
