"""Settings of all tests."""

from hypothesis import settings

# Times say nothing on a machine that others use too.
settings.register_profile("pulsetrain", deadline=None)
settings.load_profile("pulsetrain")
