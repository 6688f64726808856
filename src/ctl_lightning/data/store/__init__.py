"""Pictures, or features of them, by key: made once, mapped into memory."""
