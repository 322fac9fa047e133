//! Shapes of outputs, from the shapes of inputs and the letters of their axes.

use std::collections::BTreeMap;

use super::{Argument, Shapes, Signature};
use crate::{Error, error};

/// The sizes that the axes of a call's inputs have.
#[derive(Debug)]
pub(crate) struct Axes<'s> {
    op: &'static str,
    shapes: &'s Shapes,
    sizes: BTreeMap<&'static str, usize>,
}

/// Whether an axis is a letter or a word, whose size is that of the first input that has it.
fn names(axis: &str) -> bool {
    axis.starts_with(char::is_alphabetic) && axis.chars().all(char::is_alphanumeric)
}

impl<'s> Axes<'s> {
    /// Reads the sizes of the given inputs. An error if two inputs disagree about an axis, or if heads cannot share
    /// groups.
    pub(super) fn of(op: &'static str, signature: &Signature, shapes: &'s Shapes) -> Result<Self, Error> {
        let mut axes = Self { op, shapes, sizes: BTreeMap::new() };
        let given = || signature.inputs.iter().filter_map(|input| Some((input, shapes.get(input.name)?)));
        for (input, shape) in given() {
            for (axis, size) in input.axes.iter().zip(shape) {
                if names(axis) {
                    axes.sizes.entry(axis).or_insert(*size);
                }
            }
        }
        for (input, shape) in given() {
            let want: Vec<usize> = input.axes.iter().zip(shape).map(|(axis, size)| axes.want(axis, *size)).collect();
            error::shape(op, input.name, &want, shape)?;
        }
        if let (Some(&heads), Some(&groups)) = (axes.sizes.get("H"), axes.sizes.get("G"))
            && (groups == 0 || heads % groups != 0)
        {
            return Err(Error::Groups { op, heads, groups });
        }
        Ok(axes)
    }

    /// The size that an axis must have, given the size that it has: the same if any will do.
    fn want(&self, axis: &str, found: usize) -> usize {
        if let Ok(size) = axis.parse() {
            return size;
        }
        if let Some(size) = axis.strip_suffix(" or 1").and_then(|axis| self.sizes.get(axis)) {
            return if found == 1 { 1 } else { *size };
        }
        if let Some(size) = axis.strip_suffix(" or more").and_then(|axis| self.sizes.get(axis)) {
            return found.max(*size);
        }
        self.sizes.get(axis).copied().unwrap_or(found)
    }

    /// The size of an axis that an input names.
    pub(crate) fn size(&self, axis: &str) -> Option<usize> {
        self.sizes.get(axis).copied().or_else(|| axis.parse().ok())
    }

    /// The shape of an output whose axes all stand among the inputs' axes, or are numbers.
    pub(crate) fn shape(&self, output: &Argument) -> Result<Vec<usize>, Error> {
        let of = |axis: &&str| self.size(axis).ok_or_else(|| self.unknown(output, axis));
        output.axes.iter().map(of).collect()
    }

    /// The shape of an input, if given.
    pub(crate) fn input(&self, name: &str) -> Option<&[usize]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    fn unknown(&self, output: &Argument, axis: &str) -> Error {
        let want = format!("inputs that say what {axis} is in {}", output.shape());
        Error::Parameter { op: self.op, parameter: output.name, want, found: "none".into() }
    }
}
