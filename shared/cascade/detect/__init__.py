"""The decision core for detectors: tracks of objects, their risks, and the cascade that answers with them."""
