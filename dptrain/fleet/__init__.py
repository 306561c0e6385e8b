"""The models of a sweep: settings, placement, stacks in workers, and the trained models."""
