"""From a batch of records to the handlers, and their outcomes back."""
