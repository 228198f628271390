//! How alike the methods' weight updates are.

use std::path::{Path, PathBuf};

use hone_eval::update_similarity;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Updates (result less start) against each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Updates {
    /// What is compared, `METHOD/SEED`, in the order of rows and columns.
    pub names: Vec<String>,
    /// Length of each update.
    pub norms: Vec<f64>,
    /// Cosines of all weights together; none where an update has no length.
    pub cosines: Vec<Vec<Option<f64>>>,
    /// The same by block and kind of matrix.
    pub parts: Vec<Part>,
    /// What is not compared, with the reason.
    pub left_out: Vec<LeftOut>,
}

/// A part of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The block, from 0; none outside the blocks.
    pub block: Option<usize>,
    /// `embedding`, `q_proj`, `down_proj` ...
    pub kind: String,
    /// Length of each update in it.
    pub norms: Vec<f64>,
    /// Cosines in it.
    pub cosines: Vec<Vec<Option<f64>>>,
}

/// A model that is not compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// `METHOD/SEED`.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// A trained model by its method and seed.
#[derive(Clone, Debug)]
pub(super) struct Trained {
    pub method: String,
    pub seed: u64,
    pub model: PathBuf,
}

impl Trained {
    fn name(&self) -> String {
        format!("{}/{}", self.method, self.seed)
    }
}

/// Whether a directory has weights of its own.
fn has_weights(dir: &Path) -> bool {
    dir.join("config.json").is_file()
}

/// Compares all models with weights of their own; none where fewer than two have.
pub(super) fn updates(start: &Path, trained: &[Trained]) -> Result<Option<Updates>> {
    let mut left_out = Vec::new();
    let mut leave = |model: &Trained, reason: String| {
        left_out.push(LeftOut {
            name: model.name(),
            reason,
        });
    };
    let mut compared = Vec::new();
    for model in trained {
        if !has_weights(start) {
            leave(model, "the start is an adapter; merge it with hone export first".into());
        } else if !has_weights(&model.model) {
            leave(
                model,
                "is an adapter, which has no weights of its own to compare".into(),
            );
        } else {
            match update_similarity(start, std::slice::from_ref(&model.model)) {
                Ok(_) => compared.push(model),
                Err(hone_eval::Error::OtherWeights { difference, .. }) => leave(model, difference),
                Err(error) => return Err(error.into()),
            }
        }
    }
    if compared.len() < 2 {
        return Ok(None);
    }
    let paths: Vec<PathBuf> = compared.iter().map(|model| model.model.clone()).collect();
    let found = update_similarity(start, &paths)?;
    let parts = found.parts.into_iter().map(|part| Part {
        block: part.block,
        kind: part.kind,
        norms: part.similarity.norms,
        cosines: part.similarity.cosines,
    });
    Ok(Some(Updates {
        names: compared.into_iter().map(Trained::name).collect(),
        norms: found.all.norms,
        cosines: found.all.cosines,
        parts: parts.collect(),
        left_out,
    }))
}

/// A mean cosine of two methods over pairs of seeds; of a method with itself over pairs of different seeds.
pub(super) struct PairMean {
    pub first: String,
    pub second: String,
    pub mean: Option<f64>,
}

/// The methods of names `METHOD/SEED`, each once, in order.
pub(super) fn methods_of(names: &[String]) -> Vec<String> {
    let mut methods: Vec<String> = Vec::new();
    for name in names {
        let method = name.rsplit_once('/').map_or(name.as_str(), |(method, _)| method);
        if !methods.iter().any(|known| known == method) {
            methods.push(method.to_owned());
        }
    }
    methods
}

/// Mean cosines by pairs of methods.
pub(super) fn pair_means(names: &[String], cosines: &[Vec<Option<f64>>]) -> Vec<PairMean> {
    let methods = methods_of(names);
    let of = |method: &str| -> Vec<usize> {
        let is_own = |name: &String| name.rsplit_once('/').is_some_and(|(m, _)| m == method);
        (0..names.len()).filter(|&i| is_own(&names[i])).collect()
    };
    let mut pairs = Vec::new();
    for (i, first) in methods.iter().enumerate() {
        for second in &methods[i..] {
            let mut values = Vec::new();
            for &a in &of(first) {
                values.extend(of(second).iter().filter(|&&b| a != b).filter_map(|&b| cosines[a][b]));
            }
            let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
            pairs.push(PairMean {
                first: first.clone(),
                second: second.clone(),
                mean,
            });
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_averaged_over_seeds_and_a_model_is_not_its_own_pair() {
        let names = ["a/1", "a/2", "b/1"].map(String::from);
        let cosines = vec![
            vec![Some(1.0), Some(0.5), Some(0.2)],
            vec![Some(0.5), Some(1.0), Some(0.4)],
            vec![Some(0.2), Some(0.4), Some(1.0)],
        ];
        let found: Vec<(String, String, Option<f64>)> = pair_means(&names, &cosines)
            .into_iter()
            .map(|pair| (pair.first, pair.second, pair.mean.map(|m| (m * 1e6).round() / 1e6)))
            .collect();
        let of = |a: &str, b: &str, mean| (a.to_owned(), b.to_owned(), mean);
        assert_eq!(
            found,
            [of("a", "a", Some(0.5)), of("a", "b", Some(0.3)), of("b", "b", None)]
        );
    }
}
