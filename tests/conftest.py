"""What holds for every test.

Hypothesis by default fails an example that takes 200 ms and data that is slow to draw. Both measure
the machine, which here runs clusters beside: 340 ms and 5 ms were seen for the same example. Each
test as a whole has pytest's time-out.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
