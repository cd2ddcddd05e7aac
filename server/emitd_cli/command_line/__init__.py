"""What the flags of several commands share."""
