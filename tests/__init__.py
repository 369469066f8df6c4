"""The tests, one folder a room of `src/mercato`; `support/` holds what several of them share."""
