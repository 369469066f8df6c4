"""The simulated market. Nothing that learns or measures may import it."""
