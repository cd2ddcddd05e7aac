"""Files that survive a crash: the disk, append-only and atomically replaced files, a thread for blocking work."""
