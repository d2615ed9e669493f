"""Generators, losses, data and the training loop: PyTorch, never loaded by the runtime."""
