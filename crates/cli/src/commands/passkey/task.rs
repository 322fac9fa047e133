//! Retrieval tasks of RULER, Hsieh et al. 2024, §3: needles in a haystack, and variable tracking.
//!
//! A haystack is a list of sentences that say nothing about the question. Needles are sentences with a key and a value, and the answer is graded by the share of
//! the wanted strings that it contains, as there.

use clap::ValueEnum;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Task {
    /// One key with one value
    Single,
    /// Four keys with a value each, of which one is asked for
    Multikey,
    /// One key with four values, which are all asked for
    Multivalue,
    /// A chain of five variables, each assigned to the next; all that hold the first value are asked for
    Tracking,
}

/// The number of keys of `multikey`, of values of `multivalue`, and of variables of `tracking`, as in the paper.
const NEEDLES: usize = 4;
const VARIABLES: usize = 5;

/// The sentences of a haystack, if no other are given. They repeat, as in RULER's simplest haystack.
pub(crate) const HAYSTACK: [&str; 5] = [
    "The river is wide.",
    "The bread is warm.",
    "The road goes on.",
    "Leaves fall in the wind.",
    "We walk there and back.",
];

/// No text has more sentences.
const MOST_SENTENCES: usize = 1 << 24;

/// A text with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The text with its needles.
    pub(crate) text: String,
    pub(crate) question: String,
    /// How the answer begins.
    pub(crate) answer: String,
    /// The strings that the answer should contain.
    pub(crate) wanted: Vec<String>,
    /// The most tokens of the answer.
    pub(crate) most: usize,
}

/// Needles with their depths, in the order of the text, and the question.
struct Needles {
    said: Vec<(f64, String)>,
    probe: Probe,
}

impl Task {
    /// The name.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// A text of as many sentences of `haystack` as `fits` says yes to, with the first needle that is asked for at `depth`: 0 is the beginning, 1 the end.
    /// Needles of other keys and further values are anywhere; further variables are anywhere behind the first, in their order. Deterministic for a seed.
    ///
    /// `None` if the needles do not fit without any other sentence. `fits` may fail.
    pub(crate) fn probe<E>(
        self,
        haystack: &[String],
        depth: f64,
        seed: u64,
        mut fits: impl FnMut(&Probe) -> Result<bool, E>,
    ) -> Result<Option<Probe>, E> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let needles = self.needles(depth, &mut random);
        let from = random.random_range(0..haystack.len().max(1));
        let of = |n: usize| needles.within(haystack, from, n);
        if !fits(&of(0))? {
            return Ok(None);
        }
        let (mut low, mut high) = (0, 16);
        while high < MOST_SENTENCES && fits(&of(high))? {
            (low, high) = (high, high * 2);
        }
        while low + 1 < high {
            let middle = usize::midpoint(low, high);
            if fits(&of(middle))? { low = middle } else { high = middle }
        }
        Ok(Some(of(low)))
    }

    fn needles(self, depth: f64, random: &mut ChaCha8Rng) -> Needles {
        let magic = |key: &str, value: &str| format!("One of the special magic numbers for {key} is: {value}.");
        let keys = keys(NEEDLES, random);
        let key = &keys[0];
        let values: Vec<String> = distinct(VARIABLES, || random.random_range(1_000_000..10_000_000).to_string());
        let mut anywhere = |n: usize, from: f64| -> Vec<f64> {
            let mut depths: Vec<f64> = (0..n).map(|_| from + (1.0 - from) * random.random::<f64>()).collect();
            depths.sort_by(f64::total_cmp);
            depths
        };
        let (said, wanted): (Vec<(f64, String)>, Vec<String>) = match self {
            Task::Single => (vec![(depth, magic(key, &values[0]))], vec![values[0].clone()]),
            Task::Multikey => {
                let others = anywhere(NEEDLES - 1, 0.0).into_iter();
                let others =
                    others.zip(keys.iter().zip(&values).skip(1)).map(|(at, (key, value))| (at, magic(key, value)));
                ([(depth, magic(key, &values[0]))].into_iter().chain(others).collect(), vec![values[0].clone()])
            }
            Task::Multivalue => {
                let depths = [depth].into_iter().chain(anywhere(NEEDLES - 1, 0.0));
                let said = depths.zip(&values).map(|(at, value)| (at, magic(key, value))).collect();
                (said, values[..NEEDLES].to_vec())
            }
            Task::Tracking => {
                let depths: Vec<f64> = [depth].into_iter().chain(anywhere(VARIABLES - 1, depth)).collect();
                let letter = |random: &mut ChaCha8Rng| char::from(random.random_range(b'A'..=b'Z'));
                let names: Vec<String> = distinct(VARIABLES, || (0..5).map(|_| letter(random)).collect());
                let first = format!("VAR {} = {}.", names[0], &values[0][..5]);
                let rest = names.windows(2).map(|pair| format!("VAR {} = VAR {}.", pair[1], pair[0]));
                (depths.into_iter().zip([first].into_iter().chain(rest)).collect(), names)
            }
        };
        let (question, answer, each) = match self {
            Task::Single | Task::Multikey => (
                format!("What is the special magic number for {key} that the text above mentions?"),
                format!("The special magic number for {key} that the text mentions is"),
                32,
            ),
            Task::Multivalue => (
                format!("What are all the special magic numbers for {key} that the text above mentions?"),
                format!("The special magic numbers for {key} that the text mentions are"),
                16,
            ),
            Task::Tracking => (
                format!("Which {VARIABLES} variables hold the value {} in the text above?", &values[0][..5]),
                format!(
                    "By the assignments in the text, the {VARIABLES} variables that hold the value {} are:",
                    &values[0][..5]
                ),
                12,
            ),
        };
        let most = each * wanted.len();
        let mut said = said;
        // Equal depths keep their order.
        said.sort_by(|a, b| a.0.total_cmp(&b.0));
        Needles { said, probe: Probe { text: String::new(), question, answer, wanted, most } }
    }
}

impl Needles {
    /// The probe with `n` sentences of the haystack, from sentence `from` on.
    fn within(&self, haystack: &[String], from: usize, n: usize) -> Probe {
        let mut text =
            String::from("Facts are hidden in the following text. Remember them: there is a question about them.\n\n");
        let mut needles = self.said.iter().peekable();
        for at in 0..=n {
            while let Some((_, said)) = needles.next_if(|(depth, _)| (depth * n as f64).round() as usize <= at) {
                text.push_str(said);
                text.push(' ');
            }
            if at < n
                && let Some(sentence) = haystack.get((from + at) % haystack.len().max(1))
            {
                text.push_str(sentence);
                text.push(' ');
            }
        }
        Probe { text: text.trim_end().to_owned(), ..self.probe.clone() }
    }
}

impl Probe {
    /// The share of the wanted strings that an answer contains.
    pub(crate) fn grade(&self, answer: &str) -> f64 {
        let answer = answer.to_lowercase();
        let found = self.wanted.iter().filter(|wanted| answer.contains(&wanted.to_lowercase())).count();
        found as f64 / self.wanted.len() as f64
    }
}

/// `n` different keys.
fn keys(n: usize, random: &mut ChaCha8Rng) -> Vec<String> {
    const KINDS: [&str; 16] = [
        "amber", "brisk", "calm", "dusty", "eager", "faint", "gentle", "hollow", "ivory", "jolly", "keen", "lucky",
        "mellow", "noble", "plain", "quiet",
    ];
    const THINGS: [&str; 16] = [
        "anchor", "basket", "candle", "drum", "engine", "feather", "garden", "hammer", "island", "jacket", "kettle",
        "ladder", "mirror", "needle", "orchard", "pencil",
    ];
    let mut all: Vec<String> =
        KINDS.iter().flat_map(|kind| THINGS.iter().map(move |thing| format!("{kind}-{thing}"))).collect();
    all.shuffle(random);
    all.truncate(n);
    all
}

/// `n` different strings.
fn distinct(n: usize, mut draw: impl FnMut() -> String) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    while all.len() < n {
        let one = draw();
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn haystack() -> Vec<String> {
        HAYSTACK.map(str::to_owned).to_vec()
    }

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn probe(task: Task, length: usize, depth: f64, seed: u64) -> Probe {
        let fits = |probe: &Probe| Ok::<_, ()>(words(&probe.text) <= length);
        task.probe(&haystack(), depth, seed, fits).expect("no failure").expect("room for the needles")
    }

    #[test]
    fn the_text_is_as_long_as_it_may_be_and_holds_what_is_wanted() {
        for task in Task::value_variants() {
            for (length, depth, seed) in [(150, 0.0, 1), (1000, 0.5, 2), (1001, 1.0, 3)] {
                let probe = probe(*task, length, depth, seed);
                let n = words(&probe.text);
                assert!(n <= length && n + 5 >= length, "{task:?}: {n} of {length}");
                assert!(probe.wanted.iter().all(|wanted| probe.text.contains(wanted)), "{probe:?}");
                let count = if *task == Task::Tracking {
                    VARIABLES
                } else if *task == Task::Multivalue {
                    NEEDLES
                } else {
                    1
                };
                assert_eq!(probe.wanted.len(), count);
                assert_eq!(probe, self::probe(*task, length, depth, seed), "deterministic");
                assert_ne!(probe.wanted, self::probe(*task, length, depth, seed + 1).wanted);
            }
            let none = task.probe(&haystack(), 0.5, 1, |probe| Ok::<_, ()>(words(&probe.text) < 3));
            assert_eq!(none, Ok(None));
        }
    }

    #[test]
    fn the_needle_that_is_asked_for_is_at_its_depth() {
        for task in [Task::Single, Task::Multikey, Task::Multivalue, Task::Tracking] {
            for depth in [0.0, 0.25, 0.8, 1.0] {
                let probe = probe(task, 5000, depth, 9);
                let at = probe.text.find(&probe.wanted[0]).expect("a needle") as f64 / probe.text.len() as f64;
                assert!((at - depth).abs() < 0.03, "{task:?} at {at}, want {depth}");
            }
        }
    }

    #[test]
    fn a_question_has_one_answer() {
        let many = probe(Task::Multikey, 500, 0.3, 4);
        assert_eq!(many.text.matches("special magic numbers").count(), NEEDLES);
        let key = many.answer.split_whitespace().nth(5).expect("a key");
        assert_eq!(many.text.matches(&format!("for {key} is: {}.", many.wanted[0])).count(), 1);
        assert_eq!(many.text.matches(key).count(), 1);
        let values = probe(Task::Multivalue, 500, 0.3, 4);
        let key = values.answer.split_whitespace().nth(5).expect("a key");
        assert_eq!(values.text.matches(&format!("for {key} is:")).count(), NEEDLES);
        // Each variable is assigned the one before it, which the text has said.
        let chain = probe(Task::Tracking, 500, 0.4, 4);
        let places: Vec<usize> =
            chain.wanted.iter().map(|name| chain.text.find(name.as_str()).expect("a name")).collect();
        assert!(places.is_sorted(), "{places:?}");
        for pair in chain.wanted.windows(2) {
            assert!(chain.text.contains(&format!("VAR {} = VAR {}.", pair[1], pair[0])));
        }
    }

    #[test]
    fn answers_are_graded_by_the_share_of_what_is_wanted() {
        let probe = probe(Task::Multivalue, 300, 0.5, 7);
        assert!((probe.grade(&probe.wanted.join(", ")) - 1.0).abs() < 1e-9);
        assert!((probe.grade(&format!("They are {} and 12.", probe.wanted[2])) - 0.25).abs() < 1e-9);
        assert!(probe.grade("I do not know.").abs() < 1e-9);
        let chain = self::probe(Task::Tracking, 300, 0.5, 7);
        assert!((chain.grade(&chain.wanted[1].to_lowercase()) - 0.2).abs() < 1e-9);
    }
}
