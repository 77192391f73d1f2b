"""What a model computes on the way to its logits: the readable forward pass with names, and what it tells."""
