"""Complete the look: learn how well a product goes with a scene (Kang et al., CVPR 2019, arXiv 1812.01748)."""
