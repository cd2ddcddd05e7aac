"""What waits on this machine's disk until the service can be reached."""
