"""One kind of guard a file, with what only guards of that kind need."""
