"""Text forms: JSON objects, addresses, escapes, times and UUIDs. Pure."""
