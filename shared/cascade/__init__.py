"""The decision core: which frames the full model need not see. Pure: no input or output, no model runtime."""
