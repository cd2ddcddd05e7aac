"""Who checks an audit log, and says what was changed."""
