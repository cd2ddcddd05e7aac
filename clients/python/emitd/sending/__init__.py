"""From a record to the service and back: queues, threads, calls, and the report of drops."""
