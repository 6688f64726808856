"""Finds the products that go with a photo: embeds photos with a checkpoint, searches a catalogue, shows the result."""
