"""Loss weightings compared on the mini world: ``python -m benchmarks.loss_weightings``.

``command`` does the ``jobs``: each is a ``training`` whose images are scored for ``fidelity``; ``report`` writes the
findings into a page.
"""
