"""Charts of a run: pictures, TensorBoard, and those that a reader can change in a browser."""
