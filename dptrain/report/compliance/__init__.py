"""What a reviewer of a release asks, answered from the numbers of a run, and what only the
organisation can answer.
"""
