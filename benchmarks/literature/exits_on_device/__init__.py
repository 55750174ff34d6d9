"""Early exits in the base model, before the server is asked: hierarchical inference with early exit.

A. Behera et al., "Exploring the Boundaries of On-Device Inference: When Tiny Falls Short, Go Hierarchical" (EE-HI,
arXiv 2407.11061). The exits are those of ``models.exits``, applied to a base model.
"""
