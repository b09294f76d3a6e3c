"""Hostile input: whatever a file holds, it is read, or refused in one sentence.

By default every test tries a few fixed examples, as part of the whole suite. To look for more, with new examples every
time, for about an hour of CPU, all files or one at a time:

    pytest tests/fuzz --hypothesis-profile=long

`tests/fuzz` has to be named, or the profile is not known yet when it is asked for. What is found is kept in
`.hypothesis` and tried first the next time; it also belongs, as a plain test, beside those of the module mended.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "long",
    max_examples=10_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
