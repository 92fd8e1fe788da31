"""CPU reference implementations (oracles) of the losses, their gradients and their error bounds."""
