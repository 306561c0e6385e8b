"""Published results repeated: what papers printed, and procedures that measure ours."""
