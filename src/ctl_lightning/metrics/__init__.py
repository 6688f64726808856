"""How well a distance ranks and classifies, and how sure a number is."""
