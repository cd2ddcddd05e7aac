"""Jobs, as a client reports and watches them."""
