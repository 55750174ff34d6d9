"""Faults in real processes (``python -m tests.faults``), and a long run (``python -m tests.faults.endurance``)."""
