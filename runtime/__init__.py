"""What the machine and the terminal need, and a reader of the model does not."""
