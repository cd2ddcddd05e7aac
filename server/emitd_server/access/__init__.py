"""Who may reach the service, and what each caller may do."""
