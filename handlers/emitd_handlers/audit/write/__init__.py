"""Who writes the audit log: encoding, files, Merkle tree, checkpoints, key and recovery."""
