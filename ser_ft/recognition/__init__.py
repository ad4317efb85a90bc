"""Recognition: what a model hears in files, in long recordings and in streams."""
