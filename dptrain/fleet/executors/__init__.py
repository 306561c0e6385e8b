"""Where the stacks of a fleet are trained: on this machine, by Ray, or by Slurm.

An executor is a module with one function, `execute`. Whichever it is, secret keys are made and
stored, and steps are charged, by the process that holds the folder of results or by a worker of
its own machine, before any noise of theirs is drawn.
"""
