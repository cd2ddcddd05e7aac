"""Jobs: the rule by which reports change them, the databases, and the watches."""
