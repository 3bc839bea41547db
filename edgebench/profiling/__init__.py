"""From the times of a runtime's operators to what they belong to: a kind, a kernel, a PyTorch module."""
