"""The audit trail: how it is written, proved, read and verified. `json_audit` has the handler.

    written    line, encoder, completion · log: file, tree · keeper · paths, log_id, key, signer, line_index, recovery
    read       trail, committed_trail, checkpoint_file · reader: source, query, scan, proofs
    verified   verify: verify_*, findings · diagnosis, alignment, change_words · evidence
    given away export, prove, signed

The formats themselves, pure functions over bytes, are `emitd_handlers.tlog`.
"""
