"""dptrain: differentially private training with built-in attack evaluation.

MAKE (torch)       data -> models -> clipping, noise -> train -> fleet -> score
JUDGE (NumPy)      attacks/* -> metrics -> judge; accounting, statement
SHOW               plots -> report, tensorboard
The halves meet on disk (store) at Scores and Mechanism (types); `defences` plans settings, `sweep` joins the halves, `cli` calls it, and
`config` alone knows the YAML files. docs/design.md draws the house.
"""

__version__ = "0.1.0"
