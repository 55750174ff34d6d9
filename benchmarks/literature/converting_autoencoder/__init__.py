"""Converting autoencoder: an encoder that learns to map hard pictures to easy ones of their class, then classifies.

H. Mahmud et al., "A Converting Autoencoder Toward Low-latency and Energy-efficient DNN Inference at the Edge" (CBNet,
arXiv 2403.07036), and for CIFAR-10 "EncodeNet: A Framework for Boosting DNN Accuracy with Entropy-driven Generalized
Converting Autoencoder" (2024).
"""
