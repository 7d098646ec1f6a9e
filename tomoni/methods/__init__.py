"""One file per way of learning. No method imports another."""
