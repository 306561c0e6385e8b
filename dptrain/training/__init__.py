"""One loop for plain SGD and DP-SGD, and what it is made of."""
