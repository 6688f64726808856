"""What a figure shows is arrays: no network, no data module, no logger."""
