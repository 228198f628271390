//! Which worked examples a question gets.

use std::collections::HashMap;

use hone_math::Key;
use hone_text::QaExample;

use super::similar::Similarity;

/// How worked examples are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The first of the file, the same for every question.
    Fixed,
    /// Drawn anew for each row, by its number.
    Random,
    /// Those whose questions are most like the question (see [`Similarity`]), the most similar last.
    Similar,
}

/// Worked examples to choose from.
#[derive(Clone, Debug)]
pub struct ExamplePool {
    examples: Vec<QaExample>,
    /// The questions with their white space collapsed.
    questions: Vec<String>,
    selection: Selection,
    key: Key,
    index: Option<Similarity>,
}

impl ExamplePool {
    /// Of these examples; `seed` counts for [`Selection::Random`] alone.
    pub fn new(examples: Vec<QaExample>, selection: Selection, seed: u64) -> Self {
        let questions: Vec<String> = examples.iter().map(|example| collapsed(&example.question)).collect();
        let index = (selection == Selection::Similar).then(|| Similarity::new(questions.iter().map(String::as_str)));
        Self {
            examples,
            questions,
            selection,
            key: Key::new(seed, "prompt/examples", 0),
            index,
        }
    }

    /// All examples.
    pub fn examples(&self) -> &[QaExample] {
        &self.examples
    }

    /// At most `shots` examples for the question of row `row`, in the order in which they are shown. The question itself
    /// (white space aside) is never among them, whatever its answer; nor is another question twice.
    pub fn pick(&self, question: &str, shots: usize, row: u64) -> Vec<&QaExample> {
        let own = collapsed(question);
        match self.selection {
            Selection::Fixed => self.first(0..self.examples.len(), &own, shots),
            Selection::Random => {
                let order = Shuffled::new(self.key.child(row), self.examples.len());
                self.first(order, &own, shots)
            }
            Selection::Similar => {
                let cosines = self.index.as_ref().map(|index| index.to(&own)).unwrap_or_default();
                let mut order: Vec<usize> = (0..self.examples.len()).collect();
                // Of equals the first
                order.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]).then(a.cmp(&b)));
                let mut picked = self.first(order.into_iter(), &own, shots);
                picked.reverse();
                picked
            }
        }
    }

    fn first(&self, order: impl Iterator<Item = usize>, own: &str, shots: usize) -> Vec<&QaExample> {
        let mut picked: Vec<usize> = Vec::with_capacity(shots);
        let mut order = order;
        while picked.len() < shots {
            let Some(next) = order.next() else { break };
            let question = &self.questions[next];
            if question != own && picked.iter().all(|&i| &self.questions[i] != question) {
                picked.push(next);
            }
        }
        picked.into_iter().map(|i| &self.examples[i]).collect()
    }
}

/// The numbers below n in a random order, made as far as it is asked for (Fisher and Yates, with a map for what was moved).
struct Shuffled {
    key: Key,
    n: usize,
    next: usize,
    moved: HashMap<usize, usize>,
}

impl Shuffled {
    fn new(key: Key, n: usize) -> Self {
        Self {
            key,
            n,
            next: 0,
            moved: HashMap::new(),
        }
    }
}

impl Iterator for Shuffled {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.next >= self.n {
            return None;
        }
        let i = self.next;
        self.next += 1;
        let j = i + self.key.below(i as u64, (self.n - i) as u64) as usize;
        let at_i = self.moved.remove(&i).unwrap_or(i);
        Some(if j == i {
            at_i
        } else {
            self.moved.insert(j, at_i).unwrap_or(j)
        })
    }
}

fn collapsed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(questions: &[&str], selection: Selection) -> ExamplePool {
        let example = |(i, question): (usize, &&str)| QaExample {
            question: (*question).into(),
            answer: i.to_string(),
        };
        ExamplePool::new(questions.iter().enumerate().map(example).collect(), selection, 1)
    }

    fn answers(picked: &[&QaExample]) -> Vec<usize> {
        picked.iter().map(|example| example.answer.parse().unwrap()).collect()
    }

    #[test]
    fn a_question_is_never_its_own_example() {
        let questions = ["Who?", "What?", "Who?", "When?", "Where?"];
        for selection in [Selection::Fixed, Selection::Random, Selection::Similar] {
            let pool = pool(&questions, selection);
            for row in 0..20 {
                let picked = answers(&pool.pick(" Who?\n", 9, row));
                let mut sorted = picked.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, [1, 3, 4], "{selection:?}");
                // Nor does another question come twice
                assert_eq!(pool.pick("Why?", 9, row).len(), 4, "{selection:?}");
                assert_eq!(pool.pick("Why?", 0, row).len(), 0, "{selection:?}");
            }
        }
    }

    #[test]
    fn fixed_ones_are_the_first() {
        let pool = pool(&["a", "b", "c", "d"], Selection::Fixed);
        assert_eq!(answers(&pool.pick("x", 2, 5)), [0, 1]);
        assert_eq!(answers(&pool.pick("b", 2, 5)), [0, 2]);
    }

    #[test]
    fn random_ones_depend_on_the_row_and_are_uniform() {
        let questions: Vec<String> = (0..10).map(|i| format!("q{i}")).collect();
        let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
        let pool = pool(&questions, Selection::Random);
        let mut seen = [0; 10];
        for row in 0..2000 {
            let picked = answers(&pool.pick("x", 3, row));
            assert_eq!(picked, answers(&pool.pick("x", 3, row)));
            picked.iter().for_each(|&i| seen[i] += 1);
        }
        assert_ne!(answers(&pool.pick("x", 3, 0)), answers(&pool.pick("x", 3, 1)));
        // 600 expected of each, deviation sqrt(2000 * 0.3 * 0.7) = 20
        assert!(seen.iter().all(|&count| (500..700).contains(&count)), "{seen:?}");
        // More than there are: all of them, in some order
        let mut all = answers(&pool.pick("x", 99, 7));
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn similar_ones_end_with_the_most_similar() {
        let questions = [
            "What is 3 plus 4?",
            "Is the sky blue?",
            "What is 12 plus 30?",
            "Name a colour of the sky.",
        ];
        let pool = pool(&questions, Selection::Similar);
        assert_eq!(answers(&pool.pick("What is 12 plus 31?", 2, 0)), [0, 2]);
        assert_eq!(answers(&pool.pick("Which colour has the sky?", 1, 0)), [3]);
    }
}
