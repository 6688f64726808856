"""Which formats of data on disk can be read: each says which pairs there are, and where the image of an id lies."""
