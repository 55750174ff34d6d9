"""Compression of models: structured pruning with distillation, INT8, pattern sparsity, separable interpolation."""
