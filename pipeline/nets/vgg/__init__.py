"""VGG and AlexNet: their facts, their network, and both as a backbone."""
