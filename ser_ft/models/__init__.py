"""All that is saved with a model, behind the Auto classes of transformers."""

MODELS = ("mfcc-cnn",)
