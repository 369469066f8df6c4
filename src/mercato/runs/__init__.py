"""A run: the folder that training leaves, and the encoders that read it in torch and in ONNX Runtime."""
