"""The audit trail. `handler` has the class of `json_audit`, `source` the protocol that readers use.

format     the files: names, line, line index, checkpoint file
write      encoder, files, tree, checkpoints, id and key, recovery after a crash
read       committed lines, queries, proofs
verify     the whole check, and its findings in words
publish    proofs and exports
"""
