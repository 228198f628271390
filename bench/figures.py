"""How a line of the table follows from the figures of a row's measures."""
import statistics

# The kinds of lines whose ratio is to be small, and how it is shown
SMALL = {"part", "level", "straight", "noise", "near", "cost", "most"}


def median(record, key, what="value"):
    """The median over the rounds; of `runs`, place by place."""
    found = [r[key][what] for r in record["rounds"]]
    return [statistics.median(column) for column in zip(*found)] if what == "runs" else statistics.median(found)


def ratio(line, them, of, factor=1.0):
    """The figure of a line. `them` is the best of the others; `of(key, what)` gives a measure's figure."""
    if line.kind == "memory":
        return of(them, "max_rss_bytes") / of(line.ours, "max_rss_bytes")
    if line.kind == "level":
        values = [of(key, "value") for key in (line.ours, *line.theirs)]
        return max(values) / min(values) - 1.0
    if line.kind == "straight":
        return bend([(at, of(key, "value")) for at, key in zip(line.at, (line.ours, *line.theirs))])
    if line.kind == "noise":
        return apart(of(line.ours, "runs"), of(line.base, "runs")) / apart(of(them, "runs"), of(line.base, "runs"))
    if line.kind == "near":
        return abs(of(line.ours, "value") / of(them, "value") - 1.0)
    if line.kind == "cost":
        return of(them, "value") / of(line.ours, "value") - 1.0
    if line.kind == "most":
        return of(line.ours, "value")
    return of(line.ours, "value") * factor / of(them, "value")


def apart(one, other):
    """How far two curves are apart on average."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def bend(points):
    """The largest deviation from the straight line of least squares, as a share of the line there."""
    slope, start = statistics.linear_regression([x for x, _ in points], [y for _, y in points])
    return max(abs(y / (start + slope * x) - 1.0) for x, y in points)
