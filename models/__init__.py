"""What is trained: backbones, augmentations, losses, frameworks and the two-branch wrapper. Plain PyTorch, no Ray."""
