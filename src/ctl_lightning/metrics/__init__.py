"""How well a distance ranks and classifies, and how certain each number is."""
