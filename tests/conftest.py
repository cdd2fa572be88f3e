"""What every test shares: how long hypothesis searches, and where `make` put the model."""

import os

from hypothesis import HealthCheck, settings

from cloudisense.home import default_state

# `make test`: the same examples each time, so that a red run means a change. `make check` (--hypothesis-profile=long):
# new ones each time; a failure prints what replays it, and belongs in the test as an @example for good.
settings.register_profile("test", deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "long",
    deadline=None,
    max_examples=500,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,  # a landing is judged by the change, not by the draw; the search for new examples is everybody's own
)
settings.load_profile("test")

if (model := default_state() / "models/smollm2.gguf").is_file():
    os.environ.setdefault("CLOUDISENSE_TEST_MODEL", str(model))
