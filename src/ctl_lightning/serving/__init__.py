"""From a photo to products: a checkpoint as a function of photos, the catalogue that it searches, and what a person sees of it."""
