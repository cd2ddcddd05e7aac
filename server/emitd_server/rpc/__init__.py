"""The gRPC edge: servicers, streams, health, and the table of statuses."""
