"""The fleet: what all devices of one or more brokers report, and the rollout of newer versions."""
