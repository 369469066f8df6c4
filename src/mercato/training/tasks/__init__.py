"""Training tasks: what a stage learns, from its batches to its losses."""
