"""What the adapters of logging libraries share."""
