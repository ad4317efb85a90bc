"""Inference with trained models: clips, long recordings and streams."""
