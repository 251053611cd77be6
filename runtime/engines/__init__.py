"""TensorRT engines: built, stored and run."""
