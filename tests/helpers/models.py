"""The shape of the inputs of small models."""

MODEL_SHAPE = (3, 4)
