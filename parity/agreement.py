# Golden numbers for hone-objective's statistics of agreement, from the packages that people use for them.
#
#   python 3.11; the versions stand in PROVENANCE.md
#   pip install numpy scipy scikit-learn statsmodels krippendorff
#   python parity/agreement.py            writes parity/golden/objectives/agreement.json
#
# Cohen's kappa: sklearn.metrics.cohen_kappa_score. Fleiss': statsmodels.stats.inter_rater.fleiss_kappa. Krippendorff's alpha:
# krippendorff.alpha. Kendall's tau-b: scipy.stats.kendalltau.

import json
import random
from pathlib import Path

import krippendorff
import numpy as np
from scipy.stats import kendalltau
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa

OUT = Path(__file__).parent / "golden" / "objectives" / "agreement.json"


def kappa(rng):
    cases = []
    for n, categories, keep in [(12, 2, 0.7), (40, 4, 0.5), (100, 7, 0.3), (25, 3, 0.0)]:
        first = [rng.randrange(categories) for _ in range(n)]
        second = [c if rng.random() < keep else rng.randrange(categories) for c in first]
        labels = list(range(categories))
        score = lambda weights: float(cohen_kappa_score(first, second, labels=labels, weights=weights))
        cases.append({
            "first": first, "second": second, "categories": categories,
            "equal": score(None), "linear": score("linear"), "quadratic": score("quadratic"),
        })
    return cases


def fleiss(rng):
    cases = []
    for items, judges, categories in [(10, 3, 2), (30, 6, 5), (7, 14, 4)]:
        counts = []
        for _ in range(items):
            liked = rng.randrange(categories)
            row = [0] * categories
            for _ in range(judges):
                row[liked if rng.random() < 0.5 else rng.randrange(categories)] += 1
            counts.append(row)
        cases.append({
            "counts": sum(counts, []), "categories": categories,
            "kappa": float(fleiss_kappa(np.array(counts), method="fleiss")),
        })
    return cases


def alpha(rng):
    cases = []
    for items, judges, top, present in [(12, 4, 5, 0.8), (40, 3, 7, 0.6), (20, 8, 3, 1.0), (30, 2, 9, 0.9)]:
        table = []
        for _ in range(items):
            truth = 1 + rng.randrange(top)
            row = []
            for _ in range(judges):
                value = truth if rng.random() < 0.6 else 1 + rng.randrange(top)
                row.append(value if rng.random() < present else None)
            table.append(row)
        data = np.array([[np.nan if v is None else v for v in row] for row in table], dtype=float).T
        case = {"values": sum(table, []), "judges": judges}
        for level in ["nominal", "ordinal", "interval"]:
            case[level] = float(krippendorff.alpha(reliability_data=data, level_of_measurement=level))
        cases.append(case)
    return cases


def tau(rng):
    cases = []
    for n, top in [(4, 4), (9, 3), (50, 10), (200, 1000)]:
        x = [rng.randrange(top) for _ in range(n)]
        y = [a if rng.random() < 0.5 else rng.randrange(top) for a in x]
        cases.append({"x": x, "y": y, "tau": float(kendalltau(x, y, variant="b").statistic)})
    return cases


if __name__ == "__main__":
    rng = random.Random(1)
    content = {"kappa": kappa(rng), "fleiss": fleiss(rng), "alpha": alpha(rng), "tau": tau(rng)}
    OUT.write_text(json.dumps(content, separators=(",", ":")) + "\n")
