//! Options after a prompt have the log-probabilities of their tokens, whatever else is asked.

mod common;

use common::{architecture, engine, random_ids, random_model};
use hone_compute::{Isa, Precision};
use hone_generate::{OptionQuery, logprobs_of, option_scores};
use hone_math::Key;

#[test]
fn options_have_the_sums_of_their_tokens() {
    for precision in [Precision::F32, Precision::Bf16] {
        let engine = engine(Isa::detect(), precision, 2);
        let model = random_model(&engine, &architecture("llama", (4, 2, 8), 97, true), 1);
        let r = &mut Key::new(1, "ids", 0).stream();
        let queries: Vec<OptionQuery> = (0..5)
            .map(|i| OptionQuery {
                prompt: random_ids(r, 3 + 7 * i, 97),
                options: (0..=i).map(|j| (random_ids(r, 1 + j, 97), 2 * j + 1)).collect(),
            })
            .collect();
        let together = option_scores(&engine, &model, &queries);
        for (query, scores) in queries.iter().zip(&together) {
            assert_eq!(scores.len(), query.options.len());
            for ((option, bytes), score) in query.options.iter().zip(scores) {
                let whole = [query.prompt.as_slice(), option].concat();
                let logprobs = logprobs_of(&engine, &model, &[&whole], 1.0).remove(0).logprobs;
                let own = &logprobs[query.prompt.len() - 1..];
                let sum: f64 = own.iter().map(|&x| f64::from(x)).sum();
                assert_eq!(score.logprob.to_bits(), sum.to_bits());
                assert_eq!((score.tokens, score.bytes), (option.len(), *bytes));
            }
        }
    }
}
