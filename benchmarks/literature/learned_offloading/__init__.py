"""Learned offloading: SAC-d (arXiv 2201.02968), and HI-LCB-lite (arXiv 2508.08985), a rival that learns on line."""
