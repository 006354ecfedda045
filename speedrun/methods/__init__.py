"""What turns a batch into a step of training. Each method is a callable `step(batch, progress) -> numbers`."""
