"""What is given away: a model that was trained for it, the folder that it lies in, predictions."""
