"""What the demo asks of the flights, and the answers that are known beforehand."""

KNOWN = {
    "flights": 336_776,
    "carriers": 16,
    "flights that never left (dep_time is null)": 8_255,
    "miles flown (sum of distance)": 350_217_607,
}
KNOWN_SQL = """
    SELECT count(*), count(DISTINCT carrier), count(*) FILTER (WHERE dep_time IS NULL), CAST(sum(distance) AS BIGINT)
    FROM flights
"""

QUESTIONS = {
    "Which airlines leave latest?": """
        SELECT a.name AS airline, count(*) AS flights,
               round(avg(f.dep_delay), 1) AS average_delay_min,
               round(100.0 * count(*) FILTER (WHERE f.dep_delay > 60) / count(*), 1) AS over_an_hour_pct
        FROM flights f JOIN airlines a USING (carrier)
        WHERE f.dep_delay IS NOT NULL
        GROUP BY a.name ORDER BY average_delay_min DESC, airline LIMIT 5
    """,
    "Does rain make flights late?": """
        SELECT CASE WHEN w.precip = 0 THEN 'dry' WHEN w.precip < 0.1 THEN 'some rain' ELSE 'heavy rain' END AS weather,
               count(*) AS flights,
               round(avg(f.dep_delay), 1) AS average_delay_min,
               round(100.0 * count(*) FILTER (WHERE f.dep_time IS NULL) / count(*), 2) AS cancelled_pct
        FROM flights f JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour
        GROUP BY 1 ORDER BY min(w.precip)
    """,
    "When should one leave?": """
        SELECT hour AS planned_hour, count(*) AS flights, round(avg(dep_delay), 1) AS average_delay_min
        FROM flights WHERE dep_delay IS NOT NULL
        GROUP BY hour HAVING count(*) > 1000 ORDER BY average_delay_min LIMIT 5
    """,
    "Where do most flights go, and how long does it take?": """
        SELECT p.name AS destination, count(*) AS flights,
               CAST(round(avg(f.air_time)) AS INTEGER) AS minutes_in_the_air, max(f.distance) AS miles
        FROM flights f JOIN airports p ON p.faa = f.dest
        GROUP BY p.name ORDER BY flights DESC, destination LIMIT 5
    """,
    "Who built the planes?": """
        SELECT p.manufacturer, count(DISTINCT f.tailnum) AS planes, count(*) AS flights,
               round(avg(2013 - p.year), 1) AS average_age_years
        FROM flights f JOIN planes p USING (tailnum)
        GROUP BY p.manufacturer ORDER BY flights DESC LIMIT 5
    """,
}

FLIGHTS_AT = "SELECT count(*), max(time_hour) FROM flights"
