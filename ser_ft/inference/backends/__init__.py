"""The engines that compute a model: ONNX Runtime and torch."""
