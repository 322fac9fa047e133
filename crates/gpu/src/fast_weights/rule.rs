//! What the recurrence does with a token, as a list of operations on a state `S`, `[I, J]`. The kernel is compiled for a
//! list.

/// An operation. An inner vector has a number for each row `i` of the state, an outer one for each column `j`. The sum
/// that was read last is a vector `r` of the second kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    /// None.
    #[default]
    Nothing,
    /// `S *= e^g`
    Decay,
    /// `r_j = Σ_i x_i S_ij`, which is also output `out`, times a factor
    Read {
        /// The inner vector `x`.
        by: usize,
        /// The output.
        out: Option<usize>,
        /// The factor of the output, not of `r`.
        times: Factor,
    },
    /// As `Read` with the factor `s`, plus the skip times the first outer vector.
    ReadAndSkip {
        /// The inner vector `x`.
        by: usize,
        /// The output.
        out: usize,
    },
    /// `r = y − r`, with the first outer vector as `y`; also output `out`
    Miss {
        /// The output.
        out: Option<usize>,
    },
    /// `S_ij += f x_i y_j`
    Write {
        /// The inner vector `x`.
        by: usize,
        /// The outer vector `y`, or `r`.
        of: Outer,
        /// `f`
        times: Factor,
    },
}

/// An outer vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outer {
    /// An input.
    Input(usize),
    /// The sum that was read last.
    Found,
}

/// A factor of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Factor {
    /// 1
    One,
    /// The scale `s` of the call.
    Scale,
    /// The strength `β` of the token and head.
    Strength,
    /// `−β`
    MinusStrength,
}

/// The most operations of a rule.
pub(crate) const OPERATIONS: usize = 6;

/// The operations of a token, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rule([Operation; OPERATIONS]);

impl Rule {
    /// A rule of the first [`OPERATIONS`] operations.
    pub(crate) fn new(operations: &[Operation]) -> Self {
        let mut rule = Self::default();
        rule.0.iter_mut().zip(operations).for_each(|(to, operation)| *to = *operation);
        rule
    }

    /// Operation `n`.
    pub(crate) fn get(&self, n: usize) -> Operation {
        self.0[n]
    }

    /// Without what it outputs: what leads to the state after the last token.
    pub(crate) fn silent(&self) -> Self {
        let mut rule = *self;
        for operation in &mut rule.0 {
            match operation {
                Operation::Read { out, .. } | Operation::Miss { out } => *out = None,
                Operation::ReadAndSkip { .. } => *operation = Operation::Nothing,
                _ => {}
            }
        }
        // A sum is needed by what follows it, up to the next sum.
        for n in 0..OPERATIONS {
            let rest = rule.0[n + 1..].iter().take_while(|next| !matches!(next, Operation::Read { .. }));
            let used = rest
                .clone()
                .any(|next| matches!(next, Operation::Miss { .. } | Operation::Write { of: Outer::Found, .. }));
            if matches!(rule.0[n], Operation::Read { .. }) && !used {
                rule.0[n] = Operation::Nothing;
            }
        }
        rule
    }

    /// Whether the state of a token depends on earlier states by more than a decay, so that a text cannot be cut into
    /// segments that are read side by side.
    pub(crate) fn erases(&self) -> bool {
        self.0.iter().any(|operation| matches!(operation, Operation::Write { of: Outer::Found, .. }))
    }

    /// Whether it decays the state.
    pub(crate) fn decays(&self) -> bool {
        self.0.contains(&Operation::Decay)
    }

    /// The sums that it reads.
    pub(crate) fn reads(&self) -> usize {
        let reads = |o: &&Operation| matches!(o, Operation::Read { .. } | Operation::ReadAndSkip { .. });
        self.0.iter().filter(reads).count()
    }

    /// The number of sums that operation `n` follows.
    pub(crate) fn reads_before(&self, n: usize) -> usize {
        Self::new(&self.0[..n]).reads()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_rule_keeps_what_the_state_needs() {
        let read = |by, out| Operation::Read { by, out, times: Factor::One };
        let write = |by, of| Operation::Write { by, of, times: Factor::One };
        let delta = [
            Operation::Decay,
            read(1, None),
            Operation::Miss { out: Some(1) },
            write(1, Outer::Found),
            read(0, Some(0)),
        ];
        let silent = [Operation::Decay, read(1, None), Operation::Miss { out: None }, write(1, Outer::Found)];
        assert_eq!(Rule::new(&delta).silent(), Rule::new(&silent));
        assert!(Rule::new(&delta).erases());
        let plain = Rule::new(&[Operation::Decay, write(1, Outer::Input(0)), read(0, Some(0))]);
        assert_eq!(plain.silent(), Rule::new(&[Operation::Decay, write(1, Outer::Input(0))]));
        assert!(!plain.erases() && plain.decays() && plain.reads() == 1);
    }
}
