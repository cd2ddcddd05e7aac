"""Text forms: JSON objects, escapes, times and UUIDs. Pure."""
