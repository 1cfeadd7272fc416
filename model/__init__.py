"""The network, the data path into it, the training engine and inference."""
