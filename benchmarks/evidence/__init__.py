"""The paper's comparison in miniature: ``python -m benchmarks.evidence``.

``command`` reads the settings and runs ``stages`` in ``lanes``, each in a process that does its ``stage_work``; the
``figures`` go through ``paired_tests`` and ``plots`` into a ``page``.
"""
