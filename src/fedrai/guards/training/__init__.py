"""Guards of one's own: their rows, the training and the card."""
