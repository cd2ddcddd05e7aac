"""Transparency logs in the formats of C2SP: pure functions over bytes, without any I/O.

`merkle` has the tree and its proofs (RFC 6962), `note` the signed texts and their keys, `checkpoint` the signed
tree heads, `tiles` the layout of a folder that public readers understand, `proof_file` a proof to carry away.
Nothing in here knows of audit events.
"""
