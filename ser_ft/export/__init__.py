"""Export of trained classifiers to ONNX."""
