"""The demo's data: what a point is, and all of them in order of time."""

import csv
from pathlib import Path

import msgspec

TOPIC = "vehicle-positions"


class Point(msgspec.Struct, frozen=True):
    """Where a vehicle was.

    Attributes:
        elapsed_s: Seconds since its trace began.
        vehicle_id: Which vehicle.
        x_m: Metres east of an arbitrary centre.
        y_m: Metres north of it.
        activity: Driving or OnFoot.
    """

    elapsed_s: float
    vehicle_id: str
    x_m: float
    y_m: float
    activity: str


def points_by_time() -> list[Point]:
    """Read every point of every vehicle."""
    with Path(__file__).with_name("delivery_gps.csv").open(newline="") as file:
        return [msgspec.convert(row, Point, strict=False) for row in csv.DictReader(file)]
