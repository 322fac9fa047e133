//! Metrics of predictions on the whole held-out set, in f64.

use std::collections::{BTreeMap, BTreeSet};

/// The part of pairs that are equal.
pub(crate) fn accuracy(pairs: &[(usize, usize)]) -> f64 {
    let right = pairs.iter().filter(|(want, found)| want == found).count();
    right as f64 / pairs.len().max(1) as f64
}

/// `2 TP / (2 TP + FP + FN)`; 0 if there is nothing to find.
fn f1(right: usize, wanted: usize, found: usize) -> f64 {
    if wanted + found == 0 { 0.0 } else { 2.0 * right as f64 / (wanted + found) as f64 }
}

/// The mean over the labels that occur of their F1.
pub(crate) fn macro_f1(pairs: &[(usize, usize)]) -> f64 {
    let labels: BTreeSet<usize> = pairs.iter().flat_map(|(want, found)| [*want, *found]).collect();
    let of = |label: &usize| {
        let count = |f: &dyn Fn(&(usize, usize)) -> bool| pairs.iter().filter(|pair| f(pair)).count();
        let right = count(&|(want, found)| want == label && found == label);
        f1(right, count(&|(want, _)| want == label), count(&|(_, found)| found == label))
    };
    labels.iter().map(of).sum::<f64>() / labels.len().max(1) as f64
}

/// Matthews' correlation coefficient for any number of labels. Gorodkin 2004.
pub(crate) fn matthews(pairs: &[(usize, usize)]) -> f64 {
    let mut of: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (want, found) in pairs {
        of.entry(*want).or_default().0 += 1.0;
        of.entry(*found).or_default().1 += 1.0;
    }
    let n = pairs.len() as f64;
    let right = pairs.iter().filter(|(want, found)| want == found).count() as f64;
    let sum = |f: &dyn Fn(f64, f64) -> f64| of.values().map(|(w, p)| f(*w, *p)).sum::<f64>();
    let below = ((n * n - sum(&|_, p| p * p)) * (n * n - sum(&|w, _| w * w))).sqrt();
    if below == 0.0 { 0.0 } else { (right * n - sum(&|w, p| w * p)) / below }
}

/// F1 over all labels of all texts together, where a text may have several.
pub(crate) fn micro_f1(wanted: &[Vec<bool>], found: &[Vec<bool>]) -> f64 {
    let both = || wanted.iter().flatten().zip(found.iter().flatten());
    let right = both().filter(|(w, f)| **w && **f).count();
    f1(right, both().filter(|(w, _)| **w).count(), both().filter(|(_, f)| **f).count())
}

/// Pearson's correlation.
pub(crate) fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len().max(1) as f64;
    let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| f(x - mx, y - my)).sum::<f64>();
    let below = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    if below == 0.0 { 0.0 } else { sum(&|x, y| x * y) / below }
}

/// The ranks of numbers from 0, where equal numbers share their mean rank.
fn shared_ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
    let mut ranks = vec![0.0; x.len()];
    let mut at = 0;
    while at < order.len() {
        let same = order[at..].iter().take_while(|i| x[**i] == x[order[at]]).count().max(1);
        order[at..at + same].iter().for_each(|i| ranks[*i] = at as f64 + (same as f64 - 1.0) / 2.0);
        at += same;
    }
    ranks
}

/// Spearman's correlation: Pearson's of the ranks, where equal numbers share their mean rank.
pub(crate) fn spearman(x: &[f64], y: &[f64]) -> f64 {
    pearson(&shared_ranks(x), &shared_ranks(y))
}

/// The area under the receiver operating characteristic: the chance that a marked number is above another one, where equal ones count a
/// half; 0.5 if all or none are marked. Hanley and McNeil 1982.
pub(crate) fn area(scores: &[f64], marks: &[bool]) -> f64 {
    let marked = marks.iter().filter(|mark| **mark).count() as f64;
    let others = marks.len() as f64 - marked;
    if marked == 0.0 || others == 0.0 {
        return 0.5;
    }
    let ranks = shared_ranks(scores);
    let sum: f64 = ranks.iter().zip(marks).filter(|(_, mark)| **mark).map(|(rank, _)| rank).sum();
    (sum - marked * (marked - 1.0) / 2.0) / (marked * others)
}

/// The mean of the squares of the differences.
pub(crate) fn squared_error(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>() / x.len().max(1) as f64
}

/// The entities of a sequence of labels in the schemes BIO and IO, as in conlleval and seqeval: kind, first and last word.
fn entities(labels: &[&str]) -> BTreeSet<(String, usize, usize)> {
    let mut found = BTreeSet::new();
    let mut open: Option<(String, usize)> = None;
    for (i, label) in labels.iter().chain([&"O"]).enumerate() {
        let (prefix, kind) = label.split_once('-').map_or(("", *label), |(prefix, kind)| (prefix, kind));
        let inside = *label != "O" && !label.is_empty();
        let continues = inside && prefix != "B" && open.as_ref().is_some_and(|(known, _)| known == kind);
        if !continues {
            if let Some((known, from)) = open.take() {
                found.insert((known, from, i - 1));
            }
            if inside {
                open = Some((kind.to_owned(), i));
            }
        }
    }
    found
}

/// F1 of entities, of which kind and both ends must be right.
pub(crate) fn entity_f1(wanted: &[Vec<&str>], found: &[Vec<&str>]) -> f64 {
    let (mut right, mut of_wanted, mut of_found) = (0, 0, 0);
    for (wanted, found) in wanted.iter().zip(found) {
        let (wanted, found) = (entities(wanted), entities(found));
        right += wanted.intersection(&found).count();
        of_wanted += wanted.len();
        of_found += found.len();
    }
    f1(right, of_wanted, of_found)
}

/// An answer as SQuAD compares it: lower case, without punctuation and articles, with single spaces. Rajpurkar et al. 2016.
fn plain(answer: &str) -> Vec<String> {
    let text: String = answer.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    text.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).map(str::to_owned).collect()
}

/// Exact match and F1 of words of an answer with the best of the right ones.
pub(crate) fn answers(found: &str, right: &[String]) -> (f64, f64) {
    let found = plain(found);
    let score = |right: &String| {
        let right = plain(right);
        let exact = f64::from(u8::from(right == found));
        if right.is_empty() || found.is_empty() {
            return (exact, exact);
        }
        let mut left = right.clone();
        let same = found.iter().filter(|word| {
            let at = left.iter().position(|other| other == *word);
            at.map(|at| left.swap_remove(at)).is_some()
        });
        (exact, f1(same.count(), right.len(), found.len()))
    };
    let none = [String::new()];
    let right = if right.is_empty() { &none[..] } else { right };
    right.iter().map(score).fold((0.0, 0.0), |(a, b), (c, d)| (f64::max(a, c), f64::max(b, d)))
}

/// What is found at which rank: the part among the first `k`, the mean of reciprocal ranks, and the mean discounted gain among the first ten. Ranks count from
/// 0.
pub(crate) fn ranks(ranks: &[usize]) -> [(&'static str, f64); 4] {
    let mean = |f: &dyn Fn(usize) -> f64| ranks.iter().map(|r| f(*r)).sum::<f64>() / ranks.len().max(1) as f64;
    let within = |k: usize| mean(&|r| f64::from(u8::from(r < k)));
    [
        ("recall@1", within(1)),
        ("recall@10", within(10)),
        ("mrr", mean(&|r| 1.0 / (r + 1) as f64)),
        ("ndcg@10", mean(&|r| if r < 10 { 1.0 / ((r + 2) as f64).log2() } else { 0.0 })),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    // The numbers are those of scikit-learn 1.9.1 and scipy 1.17.1; the F1 of entities is counted by hand.
    #[test]
    fn metrics_are_those_of_scikit_learn_and_scipy() {
        let pairs = [(0, 0), (0, 1), (1, 1), (2, 2), (2, 0), (1, 1), (2, 2)];
        assert!((accuracy(&pairs) - 5.0 / 7.0).abs() < 1e-12);
        assert!((macro_f1(&pairs) - 0.7).abs() < 1e-12, "{}", macro_f1(&pairs));
        assert!((matthews(&pairs) - 0.59375).abs() < 1e-12, "{}", matthews(&pairs));
        let (x, y) = ([1.0, 2.0, 2.0, 4.0, 5.0], [2.0, 1.0, 3.0, 5.0, 4.0]);
        assert!((spearman(&x, &y) - 0.718_184_846).abs() < 1e-9, "{}", spearman(&x, &y));
        let wanted = vec![vec!["B-PER", "I-PER", "O", "B-LOC"], vec!["O", "B-ORG", "I-ORG"]];
        let found = vec![vec!["B-PER", "I-PER", "O", "B-ORG"], vec!["O", "B-ORG", "O"]];
        assert!((entity_f1(&wanted, &found) - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_area_counts_pairs() {
        // Of the four pairs, three are in order; and of two pairs, one is in order and one is equal.
        assert_eq!(area(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), 0.75);
        assert_eq!(area(&[1.0, 1.0, 0.0], &[true, false, false]), 0.75);
        assert_eq!((area(&[2.0, 1.0], &[true, true]), area(&[], &[])), (0.5, 0.5));
    }

    #[test]
    fn answers_are_compared_as_squad_does() {
        assert_eq!(answers("The Eiffel Tower!", &["eiffel tower".into()]), (1.0, 1.0));
        let (exact, f1) = answers("in Paris, France", &["Paris".into(), "Lyon".into()]);
        assert!(exact == 0.0 && (f1 - 0.5).abs() < 1e-12);
        assert_eq!(answers("", &[]), (1.0, 1.0));
    }

    #[test]
    fn ranks_become_the_usual_metrics() {
        let [(_, one), (_, ten), (_, mrr), (_, ndcg)] = ranks(&[0, 1, 20]);
        assert!((one - 1.0 / 3.0).abs() < 1e-12 && (ten - 2.0 / 3.0).abs() < 1e-12);
        assert!((mrr - (1.0 + 0.5 + 1.0 / 21.0) / 3.0).abs() < 1e-12);
        assert!((ndcg - (1.0 + 1.0 / 3.0f64.log2()) / 3.0).abs() < 1e-12);
    }
}
