"""Methods to compare with: same protocol, same table."""
