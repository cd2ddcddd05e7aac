"""How jobs are kept: the rule by which reports change them, the databases, and who is told."""
