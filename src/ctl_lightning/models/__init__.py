"""The methods, a file each: pictures -> embeddings -> distance. Plain torch; knows neither Lightning nor Hydra nor the data."""
