"""A fleet of simulated devices on several brokers and servers that are killed: ``python -m benchmarks.fleet``."""
