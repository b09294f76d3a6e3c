"""Hostile input: whatever a file holds, it is read or refused with one sentence.

By default every test tries a few fixed examples, as part of the fast suite. `make test-slow` tries more of them. To
search with new examples in every run, for about an hour of CPU time:

    pytest tests/fuzz --hypothesis-profile=long

Hypothesis keeps failing examples in `.hypothesis` and tries them first the next time. A failing example also belongs,
as a plain test, beside the tests of the module that was fixed.
"""
