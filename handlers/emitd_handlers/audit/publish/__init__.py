"""What leaves an audit log: signed checkpoints, proofs and exports."""
