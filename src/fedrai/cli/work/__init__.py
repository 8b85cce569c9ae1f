"""What commands do that also show how they get on; to move into their packages."""
