"""Recognition with trained models: files, long recordings and streams."""
