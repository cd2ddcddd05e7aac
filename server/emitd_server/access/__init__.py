"""Who calls the service, and what a caller may do."""
