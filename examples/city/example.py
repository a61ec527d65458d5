"""Riders of an elevated railway in five districts, each with eight weeks of history from another time of the year.

A row is a station and a day; the label is the station's riders of that day, divided by the station's mean over the
district's own history. A district's history is short, and no two are from the same season: together they have seen a
year. Every district is tested on its stations in the year after.

Source: R package modeldata (MIT), Chicago; original: the City of Chicago's open data portal. The station columns are
the riders 14 days before ``date``.
"""

import csv
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).with_name("chicago_ridership.csv")
COLUMNS = Path(__file__).with_name("columns.yaml")
DISTRICTS = {
    "centre": ("Clark_Lake", "Clinton", "Merchandise_Mart", "Monroe"),
    "loop": ("Quincy_Wells", "Washington_Wells", "Polk", "Ashland"),
    "north": ("Belmont", "Addison", "Montrose", "Western"),
    "northwest": ("Irving_Park", "Jefferson_Park", "Harlem", "California"),
    "west": ("Austin", "Oak_Park", "Archer_35th", "Kedzie"),
}
HISTORY_DAYS = 56
YEAR = 2013
INPUTS = (
    "riders_14_days_before",
    "riders_15_days_before",
    "riders_21_days_before",
    "saturday",
    "sunday",
    "holiday",
    "holiday_14_days_before",
    "temperature",
    "rain",
    "snow",
    "game",
    "cubs_game",
)
_LAG = timedelta(days=14)


def _list_holidays(year: int) -> set[date]:
    """Return the days of a year on which few people go to work."""
    fixed = {date(year, 1, 1), date(year, 7, 4), date(year, 12, 24), date(year, 12, 25)}
    mondays = {day for day in (date(year, 5, 25 + n) for n in range(7)) if day.weekday() == 0}
    labour = {day for day in (date(year, 9, 1 + n) for n in range(7)) if day.weekday() == 0}
    thanksgiving = {day for day in (date(year, 11, 22 + n) for n in range(7)) if day.weekday() == 3}
    return fixed | mondays | labour | thanksgiving | {one + timedelta(days=1) for one in thanksgiving}


class _City:
    """The riders of every station and day, and the weather and games of every day."""

    def __init__(self) -> None:
        with DATA.open(newline="") as file:
            rows = list(csv.DictReader(file))
        self.days = {date.fromisoformat(row["date"]): row for row in rows}
        self.holidays = set().union(*(_list_holidays(year) for year in range(2001, 2017)))

    def riders(self, station: str, day: date) -> float:
        return float(self.days[day + _LAG][station])

    def describe(self, station: str, day: date, mean: float) -> tuple[list[float], float]:
        """Return the inputs of a station and day in the task's order, and the label."""
        row, week = self.days[day], day.weekday()
        past = [self.riders(station, day - timedelta(days=back)) / mean - 1 for back in (14, 15, 21)]
        inputs = [
            *past,
            float(week == 5),
            float(week == 6),
            float(day in self.holidays),
            float(day - _LAG in self.holidays),
            (float(row["temp"]) - 52) / 20,
            float(row["weather_rain"]),
            float(row["weather_snow"]),
            float(row["Bulls_Home"] == "1" or row["Blackhawks_Home"] == "1"),
            float(row["Cubs_Home"] == "1"),
        ]
        return inputs, self.riders(station, day) / mean - 1


def write_sites(directory: Path, seed: int) -> Mapping[str, Path]:
    """Write each district's arrays: eight weeks to train on, of a season that the seed chooses, and a year to test."""
    city = _City()
    year = [date(YEAR + 1, 1, 1) + timedelta(days=number) for number in range(365)]
    seasons = np.random.default_rng(seed).permutation(len(DISTRICTS))
    files = {}
    for (name, stations), season in zip(DISTRICTS.items(), seasons.tolist(), strict=True):
        first = date(YEAR, 1, 8) + timedelta(days=60 * season)
        history = [first + timedelta(days=number) for number in range(HISTORY_DAYS)]
        parts: dict[str, list[Any]] = {"x_train": [], "y_train": [], "x_test": [], "y_test": []}
        for station in stations:
            mean = float(np.mean([city.riders(station, day) for day in history]))
            for part, days in (("train", history), ("test", year)):
                for day in days:
                    inputs, label = city.describe(station, day, mean)
                    parts[f"x_{part}"].append(inputs)
                    parts[f"y_{part}"].append(label)
        arrays: dict[str, Any] = {key: np.array(values, np.float32) for key, values in parts.items()}
        files[name] = directory / f"{name}.npz"
        np.savez(files[name], columns=np.array(INPUTS), **arrays)
    return files


def build_model(seed: int = 0) -> Any:
    """Return a network of twelve inputs with one hidden layer; its output is the relative number of riders."""
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(1)])
    model.compile(
        optimizer=keras.optimizers.SGD(0.05),
        loss="mse",
        metrics=[keras.metrics.RootMeanSquaredError(name="rmse")],
    )
    return model


SETTINGS: dict[str, Any] = {
    "build_model": build_model,
    "write_sites": write_sites,
    "rounds": 60,
    "batch_size": 32,
    "norm_bound": 3,
}
