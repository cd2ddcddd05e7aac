"""Who calls, and what they may: identity, grants, and the TLS of listeners."""
