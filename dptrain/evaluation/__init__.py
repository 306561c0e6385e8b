"""From membership scores to numbers with intervals and lower bounds of epsilon."""
