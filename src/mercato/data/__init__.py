"""The market: its schema, reading, checking, importing, and its event log mined into pairs."""
