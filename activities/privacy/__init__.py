"""Redaction before the model: personal data becomes placeholders in what a model is shown, and comes back in its answers."""
