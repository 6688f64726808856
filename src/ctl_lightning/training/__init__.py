"""How a network is trained: the LightningModule, checkpoints, processes, loggers."""
