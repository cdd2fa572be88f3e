"""Planning on the host: a quantized language model in a worker process."""
