"""The audit trail. `handler` is the class of `json_audit`, and `source` what readers ask for.

format     the files: names, line, line index, checkpoint file
write      encoder, files, tree, checkpoints, key, recovery after a crash
read       committed lines, queries, proofs
verify     the whole check, and what was changed in words
publish    signed checkpoints, proofs and exports for others
"""
