"""Infrastructure of every step: files, locks, memory, devices, precision, FLOPs, progress."""
