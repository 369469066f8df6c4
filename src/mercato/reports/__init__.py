"""Charts, and every HTML page and terminal table that a verb leaves."""
