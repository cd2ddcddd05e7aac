"""What records are made of: ids, levels, JSON, exceptions, audit events. Pure, and used in process too."""
