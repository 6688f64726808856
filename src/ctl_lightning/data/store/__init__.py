"""How pictures, or their features, are stored by key: made once, then mapped into memory."""
