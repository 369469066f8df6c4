"""The market: its schema, reading, checking, importing; its event log mined into pairs; a simulated one to learn on."""
