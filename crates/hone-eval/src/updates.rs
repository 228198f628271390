//! How alike the weights of several fine-tunes moved: the cosine of the angle between their updates, where an update is a result less the
//! model it began with.
//!
//! Two methods that do the same to a model have a cosine near 1, though one may go further; two that have nothing to do with each other a
//! cosine near 0, since random directions among many are nearly at right angles.

use std::path::{Path, PathBuf};

use hone_model::Weights;

use crate::error::Error;

/// Numbers of one weight that are held at once, over all models.
const HELD: usize = 64 << 20;

/// Updates of several models against each other.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Similarity {
    /// Length of each model's update, `[models]`.
    pub norms: Vec<f64>,
    /// Cosines `[models][models]`; none where one of the two has no length.
    pub cosines: Vec<Vec<Option<f64>>>,
}

/// The same for a part of the weights.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PartSimilarity {
    /// The block, from 0; none for what lies outside the blocks.
    pub block: Option<usize>,
    /// `embedding`, `positions`, `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`, `norms` or `head`.
    pub kind: String,
    /// Its updates.
    #[serde(flatten)]
    pub similarity: Similarity,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct UpdateSimilarity {
    /// Of all weights together.
    pub all: Similarity,
    /// By block and kind of matrix, in the order of the model.
    pub parts: Vec<PartSimilarity>,
}

/// Compares the updates of `models` (directories with weights of their own, not adapters) from `start`. Weights are read one at a time, so that
/// memory does not grow with the models' depth; sums are in double precision, in the order of the file.
///
/// # Errors
/// No model; a file that cannot be read; a model whose weights have other names or shapes than the start's.
pub fn update_similarity(start: &Path, models: &[PathBuf]) -> Result<UpdateSimilarity, Error> {
    if models.is_empty() {
        return Err(Error::Empty {
            metric: "update_similarity",
            what: "model",
        });
    }
    let mut base = Weights::open(start)?;
    let specs = specs(&base);
    let mut tuned = Vec::with_capacity(models.len());
    for path in models {
        let weights = Weights::open(path)?;
        if let Some(difference) = difference(&specs, &weights) {
            return Err(Error::OtherWeights {
                path: path.clone(),
                start: start.into(),
                difference,
            });
        }
        tuned.push(weights);
    }
    let mut all = Dots::new(models.len());
    let mut parts: Vec<(Option<usize>, String, Dots)> = Vec::new();
    for (place, (name, _)) in specs.iter().enumerate() {
        let dots = dots_of(&mut base, &mut tuned, place)?;
        all.add(&dots);
        let (block, kind) = part_of(name);
        match parts.iter_mut().find(|(b, k, _)| (*b, k.as_str()) == (block, kind)) {
            Some((_, _, sum)) => sum.add(&dots),
            None => parts.push((block, kind.to_owned(), dots)),
        }
    }
    let part = |(block, kind, dots): (Option<usize>, String, Dots)| PartSimilarity {
        block,
        kind,
        similarity: dots.similarity(),
    };
    Ok(UpdateSimilarity {
        all: all.similarity(),
        parts: parts.into_iter().map(part).collect(),
    })
}

fn specs(weights: &Weights) -> Vec<(String, (usize, usize))> {
    weights.names().map(|(name, shape)| (name.to_owned(), shape)).collect()
}

/// In what a model's weights differ from the start's, by name and shape.
fn difference(expected: &[(String, (usize, usize))], weights: &Weights) -> Option<String> {
    let own = specs(weights);
    for (name, (rows, columns)) in expected {
        match own.iter().find(|(other, _)| other == name) {
            None => return Some(format!("has no `{name}`")),
            Some((_, (r, c))) if (r, c) != (rows, columns) => {
                return Some(format!(
                    "its `{name}` has the shape [{r}, {c}], the start's [{rows}, {columns}]"
                ));
            }
            Some(_) => {}
        }
    }
    let more = own
        .iter()
        .find(|(name, _)| !expected.iter().any(|(other, _)| other == name));
    more.map(|(name, _)| format!("has `{name}`, which the start lacks"))
}

/// The block and kind of a weight by hone's name of it.
fn part_of(name: &str) -> (Option<usize>, &str) {
    let in_block = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    let Some((block, rest)) = in_block else {
        let kind = match name.split('.').next().unwrap_or(name) {
            "embed_tokens" => "embedding",
            "embed_positions" => "positions",
            "lm_head" => "head",
            "norm" => "norms",
            other => other,
        };
        return (None, kind);
    };
    let place = rest.rsplit_once('.').map_or(rest, |(place, _)| place);
    let last = place.rsplit('.').next().unwrap_or(place);
    let kind = if last.contains("norm") { "norms" } else { last };
    (block.parse().ok(), kind)
}

/// Dot products of every pair of updates, `[models * models]`, the lower half empty.
#[derive(Clone)]
struct Dots {
    count: usize,
    dots: Vec<f64>,
}

impl Dots {
    fn new(count: usize) -> Self {
        Self {
            count,
            dots: vec![0.0; count * count],
        }
    }

    fn add(&mut self, other: &Self) {
        for (own, more) in self.dots.iter_mut().zip(&other.dots) {
            *own += more;
        }
    }

    fn similarity(&self) -> Similarity {
        let dot = |i: usize, j: usize| self.dots[i.min(j) * self.count + i.max(j)];
        let norms: Vec<f64> = (0..self.count).map(|i| dot(i, i).sqrt()).collect();
        let cosine = |i: usize, j: usize| {
            let lengths = norms[i] * norms[j];
            match i == j {
                _ if lengths == 0.0 => None,
                true => Some(1.0),
                // Rounding alone can lead beyond
                false => Some((dot(i, j) / lengths).clamp(-1.0, 1.0)),
            }
        };
        Similarity {
            cosines: (0..self.count)
                .map(|i| (0..self.count).map(|j| cosine(i, j)).collect())
                .collect(),
            norms,
        }
    }
}

/// Dot products of the updates of one weight. As many models' numbers are held as fit, the others are read again for each such set.
fn dots_of(base: &mut Weights, tuned: &mut [Weights], place: usize) -> Result<Dots, Error> {
    let start = base.read(place)?;
    let count = tuned.len();
    let together = (HELD / start.len().max(1)).clamp(1, count);
    let mut dots = Dots::new(count);
    for first in (0..count).step_by(together) {
        let end = (first + together).min(count);
        let mut held = Vec::with_capacity(end - first);
        for weights in &mut tuned[first..end] {
            held.push(weights.read(place)?);
        }
        for i in first..end {
            for j in i..end {
                dots.dots[i * count + j] = dot(&start, &held[i - first], &held[j - first]);
            }
        }
        for j in end..count {
            let other = tuned[j].read(place)?;
            for i in first..end {
                dots.dots[i * count + j] = dot(&start, &held[i - first], &other);
            }
        }
    }
    Ok(dots)
}

/// `(a - start) . (b - start)`.
fn dot(start: &[f32], a: &[f32], b: &[f32]) -> f64 {
    let mut sum = 0.0;
    for ((&s, &a), &b) in start.iter().zip(a).zip(b) {
        sum += (f64::from(a) - f64::from(s)) * (f64::from(b) - f64::from(s));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_fall_into_parts() {
        for (name, part) in [
            ("embed_tokens.weight", (None, "embedding")),
            ("embed_positions.weight", (None, "positions")),
            ("norm.bias", (None, "norms")),
            ("lm_head.weight", (None, "head")),
            ("layers.0.input_layernorm.weight", (Some(0), "norms")),
            ("layers.11.self_attn.q_proj.bias", (Some(11), "q_proj")),
            ("layers.3.self_attn.k_norm.weight", (Some(3), "norms")),
            ("layers.3.mlp.down_proj.weight", (Some(3), "down_proj")),
        ] {
            assert_eq!(part_of(name), part, "{name}");
        }
    }

    #[test]
    fn cosines_by_hand() {
        let start = [1.0, 1.0, 1.0];
        let models = [[2.0, 1.0, 1.0], [1.0, 3.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]];
        let mut dots = Dots::new(4);
        for i in 0..4 {
            for j in i..4 {
                dots.dots[i * 4 + j] = dot(&start, &models[i], &models[j]);
            }
        }
        let found = dots.similarity();
        // Updates (1, 0, 0), (0, 2, 0), (-1, -1, 0) and none
        assert_eq!(found.norms, [1.0, 2.0, 2.0_f64.sqrt(), 0.0]);
        assert_eq!(found.cosines[0][..2], [Some(1.0), Some(0.0)]);
        let half = -std::f64::consts::FRAC_1_SQRT_2;
        for (i, j) in [(0, 2), (2, 0), (1, 2)] {
            assert!((found.cosines[i][j].unwrap() - half).abs() < 1e-15);
        }
        assert!((0..4).all(|i| found.cosines[3][i].is_none() && found.cosines[i][3].is_none()));
    }
}
