"""Calls to a server: channel, calls, replies and their errors."""
