"""Small networks gain nothing from threads, and lose much when tests run beside other work."""

import torch

torch.set_num_threads(1)
