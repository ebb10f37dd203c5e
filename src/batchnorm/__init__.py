"""Batch normalization for PyTorch that you can read, trust and ship."""
