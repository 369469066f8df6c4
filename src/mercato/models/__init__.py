"""The nn.Modules: towers, one file a paper, and the encoders and fusions that they are made of."""
