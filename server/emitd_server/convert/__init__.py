"""Messages of the contract to records, and outcomes back to messages."""
