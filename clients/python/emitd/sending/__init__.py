"""From a record to the service and back: queues, threads, calls, and what is told of drops."""
