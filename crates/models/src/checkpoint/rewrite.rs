//! What a checkpoint stores differently from the model: tensors under other names, and tensors that are parts of larger
//! ones. Every part is a strided view of a stored tensor, so it can be read from it and written to it.

use std::ops::Range;

use super::view::{View, count};

/// How a tensor of the model is stored.
///
/// In both patterns a `*` stands for one part of a name between dots. In the file's pattern each takes, in order, what
/// the model's matched; what is left over gives the indices of [`Step::Nth`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The pattern of the model's names.
    ours: String,
    /// The patterns of the names in the file: several if the stored tensors, joined along their first axes, are one.
    files: Vec<String>,
    /// What leads from the stored tensor to that of the model.
    steps: Vec<Step>,
}

/// A step from a stored tensor to a tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// One element of the first axis, which has this many: a list of matrices stored as one tensor.
    Nth(usize),
    /// A range of the first axis, which has this many rows.
    Rows(Range<usize>, usize),
    /// Every `of`-th row from `first` on: interleaved matrices.
    Every {
        /// The first row.
        first: usize,
        /// The distance between rows.
        of: usize,
    },
    /// A range of the rows of each group, where equal groups of rows follow one another: what is joined by heads.
    Within {
        /// The number of groups.
        groups: usize,
        /// The range within a group.
        rows: Range<usize>,
        /// The rows of a group.
        of: usize,
    },
    /// The two halves of the rows of each head are interleaved: of a head of this many rows, row `2 i` in the file is the
    /// model's row `i`, and row `2 i + 1` is row `width / 2 + i`. llama.cpp's order of queries and keys.
    Paired(usize),
    /// This many matrices side by side are stored as a list of matrices.
    Beside(usize),
    /// The last two axes are exchanged.
    Transposed,
    /// The stored tensor has this shape and the same elements in the same order. Only as the first step.
    Stored(Vec<usize>),
    /// The stored values are a function of the model's.
    Values(Values),
}

/// Values that a file stores in place of the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// `−exp(x)`: decay rates in GGUF files.
    NegativeExponential,
    /// `1 + x`: weights of norms in GGUF files.
    OnePlus,
}

impl Values {
    /// The model's value.
    pub(crate) fn read(self, stored: f32) -> f32 {
        match self {
            Self::NegativeExponential => f64::from(-stored).ln() as f32,
            Self::OnePlus => (f64::from(stored) - 1.0) as f32,
        }
    }

    /// The stored value.
    pub(crate) fn written(self, x: f32) -> f32 {
        match self {
            Self::NegativeExponential => -f64::from(x).exp() as f32,
            Self::OnePlus => (1.0 + f64::from(x)) as f32,
        }
    }
}

impl Rewrite {
    /// The tensors `ours` are stored as `file`, and `steps` lead from one to the other.
    pub fn new(ours: impl Into<String>, file: impl Into<String>, steps: impl Into<Vec<Step>>) -> Self {
        Self { ours: ours.into(), files: vec![file.into()], steps: steps.into() }
    }

    /// The tensors `ours` are parts of the tensors `files` joined along their first axes. They are read so, and written
    /// under their own names.
    pub fn joined(ours: impl Into<String>, files: &[String], steps: impl Into<Vec<Step>>) -> Self {
        Self { ours: ours.into(), files: files.to_vec(), steps: steps.into() }
    }

    /// The pattern of the model's names.
    pub(crate) fn ours(&self) -> &str {
        &self.ours
    }

    /// The patterns of the names in the file.
    pub(crate) fn files(&self) -> &[String] {
        &self.files
    }

    /// The same with one more step.
    #[must_use]
    pub(crate) fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The names in the file of the tensors that contain the model's tensor `name`, and its part of them; `None` if the
    /// pattern differs, or an index is out of range.
    fn of(&self, name: &str) -> Option<(Vec<String>, Part)> {
        let (pattern, found) = (self.ours.split('.'), name.split('.'));
        if pattern.clone().count() != found.clone().count() {
            return None;
        }
        let mut matched = Vec::new();
        for (pattern, found) in pattern.zip(found) {
            match pattern {
                "*" => matched.push(found),
                _ if pattern != found => return None,
                _ => {}
            }
        }
        let mut rest = matched.iter().copied();
        let mut files = Vec::new();
        for file in &self.files {
            rest = matched.iter().copied();
            let part = |part: &str| if part == "*" { rest.next().map(str::to_owned) } else { Some(part.to_owned()) };
            files.push(file.split('.').map(part).collect::<Option<Vec<String>>>()?.join("."));
        }
        let step = |step: &Step| match step {
            Step::Nth(count) => rest.next()?.parse().ok().filter(|i| i < count).map(|i| Taken::Nth(i, *count)),
            Step::Rows(rows, count) => Some(Taken::Rows(rows.clone(), *count)),
            Step::Every { first, of } => Some(Taken::Every(*first, *of)),
            Step::Within { groups, rows, of } => Some(Taken::Within(*groups, rows.clone(), *of)),
            Step::Paired(width) => Some(Taken::Paired(*width)),
            Step::Beside(count) => Some(Taken::Beside(*count)),
            Step::Transposed => Some(Taken::Transposed),
            Step::Stored(shape) => Some(Taken::Stored(shape.clone())),
            Step::Values(values) => Some(Taken::Values(*values)),
        };
        Some((files, Part(self.steps.iter().map(step).collect::<Option<_>>()?)))
    }
}

/// The rewrites of a model type. Where several match, the first whose stored tensor exists is read, and the first of all
/// is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrites {
    list: Vec<Rewrite>,
    /// Names of stored tensors, without what is before the layers.
    unread: Vec<String>,
}

impl Rewrites {
    /// Adds the names, from that of the list of layers on, of weights that files may have although the model does not read
    /// them.
    #[must_use]
    pub fn leaving(self, unread: Vec<String>) -> Self {
        Self { unread, ..self }
    }

    /// The same where each matrix of a list is a tensor of its own.
    #[must_use]
    pub(crate) fn apart(mut self) -> Self {
        self.list.retain(|rewrite| !rewrite.steps.iter().any(|step| matches!(step, Step::Nth(_))));
        self
    }

    /// Whether the model leaves the stored tensor `name` unread on purpose.
    pub(crate) fn leaves(&self, name: &str) -> bool {
        self.unread.iter().any(|left| name.strip_suffix(&left[..]).is_some_and(|p| p.is_empty() || p.ends_with('.')))
    }

    /// The names under which the tensor `name` may be stored, and its parts of those tensors.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (Vec<String>, Part)> + 'a {
        self.list.iter().filter_map(|rewrite| rewrite.of(name))
    }
}

impl From<Vec<Rewrite>> for Rewrites {
    fn from(rewrites: Vec<Rewrite>) -> Self {
        Self { list: rewrites, unread: Vec::new() }
    }
}

/// A step with its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Nth(usize, usize),
    Rows(Range<usize>, usize),
    Every(usize, usize),
    Within(usize, Range<usize>, usize),
    Paired(usize),
    Beside(usize),
    Transposed,
    Stored(Vec<usize>),
    Values(Values),
}

/// A part of a stored tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part(Vec<Taken>);

impl Part {
    /// What the stored values are, if not the model's.
    pub(crate) fn values(&self) -> Option<Values> {
        self.0.iter().find_map(|step| if let Taken::Values(values) = step { Some(*values) } else { None })
    }

    /// Which of how many matrices of a list it is; `None` if it is no part of a list.
    pub(crate) fn nth(&self) -> Option<(usize, usize)> {
        self.0.iter().find_map(|step| if let Taken::Nth(i, count) = step { Some((*i, *count)) } else { None })
    }

    /// The shape of the stored tensor of which a tensor of shape `shape` is this part.
    pub(crate) fn stored_shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        for step in self.0.iter().rev() {
            match step {
                Taken::Nth(_, count) => shape.insert(0, *count),
                Taken::Rows(_, count) => shape.iter_mut().take(1).for_each(|rows| *rows = *count),
                Taken::Every(_, of) => shape.iter_mut().take(1).for_each(|rows| *rows = rows.saturating_mul(*of)),
                Taken::Within(groups, _, of) => {
                    shape.iter_mut().take(1).for_each(|rows| *rows = groups.saturating_mul(*of));
                }
                Taken::Transposed => {
                    let n = shape.len();
                    if n >= 2 {
                        shape.swap(n - 2, n - 1);
                    }
                }
                Taken::Beside(count) => {
                    shape.iter_mut().skip(1).take(1).for_each(|columns| *columns /= (*count).max(1));
                    shape.insert(0, *count);
                }
                Taken::Stored(stored) => shape.clone_from(stored),
                Taken::Paired(_) | Taken::Values(_) => {}
            }
        }
        shape
    }

    /// Where the elements of a tensor of shape `shape` lie in the stored tensor. `None` if a range of rows has another
    /// length than the tensor, or a stored shape another number of elements.
    pub(crate) fn view(&self, shape: &[usize]) -> Option<View> {
        let (before, steps) = match &self.0[..] {
            [Taken::Stored(stored), steps @ ..] => (Some(stored), steps),
            steps => (None, steps),
        };
        let whole = Self(steps.to_vec()).stored_shape(shape);
        if before.is_some_and(|stored| count(stored) != count(&whole)) {
            return None;
        }
        let mut view = View::whole(&whole);
        for step in steps {
            view = view.step(step)?;
        }
        (view.len() == count(shape)).then_some(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(rewrite: &Rewrite, name: &str) -> (String, Part) {
        let (mut files, part) = rewrite.of(name).expect("the pattern matches");
        (files.remove(0), part)
    }

    fn places(part: &Part, shape: &[usize]) -> Vec<usize> {
        let mut places = Vec::new();
        part.view(shape).expect("the steps fit").each(|at| places.push(at));
        places
    }

    #[test]
    fn a_pattern_gives_names_and_indices() {
        let steps = [Step::Nth(3), Step::Rows(2..4, 4)];
        let rewrite = Rewrite::new("layers.*.experts.*.up.weight", "layers.*.input.weight", steps);
        let (name, part) = part(&rewrite, "layers.7.experts.1.up.weight");
        assert_eq!(name, "layers.7.input.weight");
        assert_eq!(part.stored_shape(&[2, 5]), [3, 4, 5]);
        assert_eq!(places(&part, &[2, 5]), (30..40).collect::<Vec<_>>());
        assert!(part.view(&[2, 5]).expect("it fits").is_contiguous());
        assert!(part.view(&[3, 5]).is_none(), "three rows of a range of two");
        assert_eq!(rewrite.of("layers.7.experts.3.up.weight"), None, "the fourth of three");
        assert_eq!(rewrite.of("layers.7.experts.1.down.weight"), None);
        assert_eq!(rewrite.of("layers.7.experts.1.up"), None);
    }

    #[test]
    fn parts_of_a_transposed_and_interleaved_tensor() {
        let steps = [Step::Nth(2), Step::Transposed, Step::Every { first: 1, of: 2 }];
        let (_, part) = part(&Rewrite::new("e.*.up", "gate_up", steps), "e.1.up");
        // Stored: [2 experts, 3 inputs, 4 = 2 outputs of two matrices].
        assert_eq!(part.stored_shape(&[2, 3]), [2, 3, 4]);
        assert_eq!(places(&part, &[2, 3]), [13, 17, 21, 15, 19, 23]);
        let view = part.view(&[2, 3]).expect("it fits");
        assert_eq!((view.bounds(), view.is_contiguous()), (13..24, false));
    }

    #[test]
    fn a_range_of_each_group() {
        let steps = [Step::Within { groups: 2, rows: 1..3, of: 4 }];
        let (_, part) = part(&Rewrite::new("q", "qkv", steps), "q");
        assert_eq!(part.stored_shape(&[4, 1]), [8, 1]);
        assert_eq!(places(&part, &[4, 1]), [1, 2, 5, 6]);
        assert!(part.view(&[5, 1]).is_none(), "five rows of two ranges of two");
        let view = part.view(&[4, 3]).expect("it fits");
        assert_eq!((view.rows(3), view.rows(1)), (Some(vec![1, 2, 5, 6]), None));
    }

    #[test]
    fn halves_of_heads_are_taken_apart() {
        let (_, part) = part(&Rewrite::new("q", "attn_q", [Step::Paired(4)]), "q");
        assert_eq!(part.stored_shape(&[8, 1]), [8, 1]);
        assert_eq!(places(&part, &[8, 1]), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(places(&part, &[8]), [0, 2, 1, 3, 4, 6, 5, 7], "a bias");
        assert!(part.view(&[6, 1]).is_none(), "one and a half heads");
    }

    #[test]
    fn a_list_of_matrices_side_by_side() {
        let (_, part) = part(&Rewrite::new("a", "b", [Step::Beside(2)]), "a");
        assert_eq!(part.stored_shape(&[3, 4]), [2, 3, 2]);
        assert_eq!(places(&part, &[3, 4]), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        assert!(part.view(&[3, 5]).is_none(), "five columns of two matrices");
    }

    #[test]
    fn another_shape() {
        let (_, part) = part(&Rewrite::new("a", "b", [Step::Stored(vec![1, 1, 4])]), "a");
        assert_eq!(part.stored_shape(&[4]), [1, 1, 4]);
        assert_eq!(places(&part, &[4]), [0, 1, 2, 3]);
        assert!(part.view(&[5]).is_none(), "another number of elements");
    }
}
