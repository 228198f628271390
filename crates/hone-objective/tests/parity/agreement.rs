//! Agreement between judges, beside krippendorff, statsmodels, scikit-learn and scipy.

use hone_objective::agreement::{
    Level, Weights, cohen_kappa, fleiss_kappa, kendall_tau_b, krippendorff_alpha, weighted_kappa,
};

use super::read::{close, golden, sizes, wide};

#[test]
fn parity_agreement() {
    let file = golden("agreement");
    let cases = |name: &str| file[name].as_array().expect(name).clone();
    for case in cases("kappa") {
        let (first, second) = (sizes(&case["first"]), sizes(&case["second"]));
        let categories = case["categories"].as_u64().unwrap() as usize;
        let weighted = |weights| weighted_kappa(&first, &second, categories, weights).unwrap().unwrap();
        close(
            "cohen",
            cohen_kappa(&first, &second, categories).unwrap().unwrap(),
            &case["equal"],
        );
        close("linear", weighted(Weights::Linear), &case["linear"]);
        close("quadratic", weighted(Weights::Quadratic), &case["quadratic"]);
    }
    for case in cases("fleiss") {
        let counts: Vec<u64> = sizes(&case["counts"]).into_iter().map(|count| count as u64).collect();
        let categories = case["categories"].as_u64().unwrap() as usize;
        close(
            "fleiss",
            fleiss_kappa(&counts, categories).unwrap().unwrap(),
            &case["kappa"],
        );
    }
    for case in cases("alpha") {
        let values: Vec<Option<f64>> = case["values"].as_array().unwrap().iter().map(|v| v.as_f64()).collect();
        let judges = case["judges"].as_u64().unwrap() as usize;
        for (name, level) in [
            ("nominal", Level::Nominal),
            ("ordinal", Level::Ordinal),
            ("interval", Level::Interval),
        ] {
            close(
                name,
                krippendorff_alpha(&values, judges, level).unwrap().unwrap(),
                &case[name],
            );
        }
    }
    for case in cases("tau") {
        let (x, y) = (wide(&case["x"]), wide(&case["y"]));
        close("tau-b", kendall_tau_b(&x, &y).unwrap().unwrap(), &case["tau"]);
    }
    let counted: Vec<usize> = ["kappa", "fleiss", "alpha", "tau"].map(|name| cases(name).len()).into();
    assert!(counted.iter().all(|&count| count >= 3), "{counted:?}");
}
