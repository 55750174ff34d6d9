"""Early exits of a full model: possible sites in its graph, heads that are trained for them, and their selection."""
