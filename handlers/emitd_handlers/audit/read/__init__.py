"""Who reads the audit log: committed lines, queries and proofs."""
