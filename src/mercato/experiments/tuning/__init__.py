"""Tuning: how hard to search for each page, chosen on golden queries (Que2Search §6.3, §6.4, §6.6)."""
