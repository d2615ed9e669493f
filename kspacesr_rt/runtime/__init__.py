"""What runs a model: the protocol, the table of backends, their choice and their self-test."""
