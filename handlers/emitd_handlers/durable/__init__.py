"""Files that survive a crash: the disk, append-only and atomically replaced files, group commit."""
