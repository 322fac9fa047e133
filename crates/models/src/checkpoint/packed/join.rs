//! Joining the tensors of which a packed matrix consists.

use half::f16;
use longreach_simd::product::Format;
use safetensors::Dtype;

use super::{BLOCK, Order, Packed, Packing, Place, number};
use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::stored::{Entry, Stored};

/// A tensor that is a part of a matrix.
struct Found {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    place: Place,
}

impl Checkpoint {
    /// Joins the tensors of which packed matrices consist; the name `….weight` then stands for each matrix. Errors if one
    /// is missing, or they do not agree.
    pub(crate) fn join_packed(&mut self, packing: Packing) -> Result<(), Error> {
        let ends: &[&str] = match packing {
            Packing::Compressed => &["weight_packed", "weight_scale"],
            Packing::Float8(_) => &["weight_scale_inv", "weight_scale"],
            Packing::Gptq { .. } | Packing::Awq => &["qweight"],
        };
        let mut layers: Vec<String> = self
            .tensors
            .keys()
            .filter_map(|name| ends.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned))
            .filter(|layer| layer.is_empty() || layer.ends_with('.'))
            .collect();
        layers.sort();
        layers.dedup();
        for layer in layers {
            let packed = match packing {
                Packing::Compressed => self.compressed(&layer)?,
                Packing::Float8(block) => self.float8(&layer, block)?,
                Packing::Gptq { bits, less_by_one } => self.gptq(&layer, bits, less_by_one)?,
                Packing::Awq => self.awq(&layer)?,
            };
            let (file, shape) = (packed.codes.file, packed.shape.to_vec());
            for part in PARTS {
                self.tensors.remove(&format!("{layer}{part}"));
            }
            let bytes = Stored::Packed(Box::new(packed));
            self.tensors.insert(format!("{layer}weight"), Entry { file, dtype: Dtype::F32, shape, bytes });
        }
        Ok(())
    }

    fn compressed(&self, layer: &str) -> Result<Packed, Error> {
        let scales = self.floats(&format!("{layer}weight_scale"))?;
        let packed = self.part(&format!("{layer}weight_packed"))?;
        let (order, codes, shape, bits) = match packed {
            Some(codes) => {
                let want = [Dtype::I32];
                let [rows, words] = self.matrix(&codes, &want)?;
                let width = self.stored_width(layer, &codes, [rows, words])?;
                // A word may have room to spare, which leaves no doubt for rows of at least a block.
                let bits = [4, 8].into_iter().find(|bits| (width * bits).div_ceil(32) == words);
                let bits = bits.ok_or_else(|| {
                    self.wrong(&codes, format!("{words} words a row of {width} codes are neither 4 nor 8 bits a code"))
                })?;
                (Order::Rows, codes, [rows, width], bits)
            }
            None => {
                let name = format!("{layer}weight");
                let codes = self.part(&name)?.ok_or_else(|| self.missing(&name))?;
                let shape = self.matrix(&codes, &[Dtype::I8, Dtype::F8_E4M3])?;
                let order = if codes.dtype == Dtype::I8 { Order::Signed } else { Order::Float8 };
                (order, codes, shape, 8)
            }
        };
        let [rows, _] = shape;
        let (of_rows, groups) = match scales.shape[..] {
            [] | [1] => (1, 1),
            [of] => (of, 1),
            [of, groups] => (of, groups),
            _ => return Err(self.wrong(&scales, format!("want 2 axes, found {:?}", scales.shape))),
        };
        if of_rows != rows && of_rows != 1 || groups == 0 {
            return Err(self.wrong(&scales, format!("scales of {of_rows} rows beside {rows} rows of codes")));
        }
        let zeros = self.part(&format!("{layer}weight_zero_point"))?;
        if let Some(zeros) = &zeros {
            let (dtype, want) = match order {
                Order::Rows => (Dtype::I32, (rows * bits).div_ceil(32) * groups),
                _ => (Dtype::I8, of_rows * groups),
            };
            self.check(zeros, dtype, want)?;
        }
        let groups_of = self.part(&format!("{layer}weight_g_idx"))?;
        let of_scale = [rows / of_rows, shape[1].div_ceil(groups.max(1))];
        self.whole(Parts { order, shape, bits, groups, of_scale, codes, scales, zeros, groups_of })
    }

    fn float8(&self, layer: &str, block: Option<[usize; 2]>) -> Result<Packed, Error> {
        let name = format!("{layer}weight");
        let codes = self.part(&name)?.ok_or_else(|| self.missing(&name))?;
        let shape = self.matrix(&codes, &[Dtype::F8_E4M3])?;
        let inverse = format!("{layer}weight_scale_inv");
        let scales =
            self.floats(&if self.tensors.contains_key(&inverse) { inverse } else { format!("{layer}weight_scale") })?;
        let all: usize = scales.shape.iter().product();
        let of_scale = match block {
            Some(block) if all != 1 => block,
            None if all == shape[0] && all != 1 => [1, shape[1]],
            _ => shape,
        };
        let [blocks, groups] = [0, 1].map(|axis| shape[axis].div_ceil(of_scale[axis]));
        if blocks * groups != all {
            let message = format!(
                "want {blocks} x {groups} scales of {} rows and columns, found {:?}",
                join(of_scale),
                scales.shape
            );
            return Err(self.wrong(&scales, message));
        }
        let (order, zeros, groups_of) = (Order::Float8, None, None);
        self.whole(Parts { order, shape, bits: 8, groups, of_scale, codes, scales, zeros, groups_of })
    }

    /// The width that `weight_shape` states, or that of full words of four bits.
    fn stored_width(&self, layer: &str, codes: &Found, [rows, words]: [usize; 2]) -> Result<usize, Error> {
        let Some(shape) = self.part(&format!("{layer}weight_shape"))? else {
            return words.checked_mul(8).ok_or_else(|| self.wrong(codes, "too large".into()));
        };
        let bytes = shape.place.of(&self.files);
        let sizes: Vec<u64> = match shape.dtype {
            Dtype::I64 => bytes.as_chunks().0.iter().map(|x| i64::from_le_bytes(*x) as u64).collect(),
            Dtype::I32 => bytes.as_chunks().0.iter().map(|x| i32::from_le_bytes(*x) as u64).collect(),
            _ => Vec::new(),
        };
        match sizes[..] {
            [of, width] if of == rows as u64 && (1..=8 * words as u64).contains(&width) => Ok(width as usize),
            _ => Err(self.wrong(&shape, format!("sizes {sizes:?} do not fit `{}` of {:?}", codes.name, codes.shape))),
        }
    }

    fn gptq(&self, layer: &str, bits: usize, less_by_one: bool) -> Result<Packed, Error> {
        let (codes, scales) = self.codes_and_scales(layer)?;
        let ([words, rows], [groups, of]) = (self.matrix(&codes, &[Dtype::I32])?, self.matrix(&scales, &FLOATS)?);
        if of != rows {
            return Err(self.wrong(&scales, format!("scales of {of} rows beside {rows} rows of codes")));
        }
        let zeros = self.part(&format!("{layer}qzeros"))?;
        if let Some(zeros) = &zeros {
            self.check(zeros, Dtype::I32, groups * (rows * bits).div_ceil(32))?;
        }
        let groups_of = self.part(&format!("{layer}g_idx"))?;
        let (order, shape) = (Order::Gptq { less_by_one }, [rows, words * (32 / bits)]);
        let of_scale = [1, shape[1].div_ceil(groups)];
        self.whole(Parts { order, shape, bits, groups, of_scale, codes, scales, zeros, groups_of })
    }

    fn awq(&self, layer: &str) -> Result<Packed, Error> {
        let (codes, scales) = self.codes_and_scales(layer)?;
        let ([width, words], [groups, of]) = (self.matrix(&codes, &[Dtype::I32])?, self.matrix(&scales, &FLOATS)?);
        if of != 8 * words {
            return Err(self.wrong(&scales, format!("scales of {of} rows beside {} rows of codes", 8 * words)));
        }
        let zeros = self.part(&format!("{layer}qzeros"))?;
        if let Some(zeros) = &zeros {
            self.check(zeros, Dtype::I32, groups * words)?;
        }
        let shape = [8 * words, width];
        let (order, bits, of_scale, groups_of) = (Order::Awq, 4, [1, width.div_ceil(groups)], None);
        self.whole(Parts { order, shape, bits, groups, of_scale, codes, scales, zeros, groups_of })
    }

    fn codes_and_scales(&self, layer: &str) -> Result<(Found, Found), Error> {
        let name = format!("{layer}qweight");
        let codes = self.part(&name)?.ok_or_else(|| self.missing(&name))?;
        Ok((codes, self.floats(&format!("{layer}scales"))?))
    }

    /// The matrix of parts whose sizes agree with each other.
    fn whole(&self, parts: Parts) -> Result<Packed, Error> {
        let Parts { order, shape, bits, groups, of_scale, codes, scales, zeros, groups_of } = parts;
        let [_, width] = shape;
        let mut places = None;
        if let Some(found) = &groups_of {
            self.check(found, Dtype::I32, width)?;
            let of: Vec<i32> =
                found.place.of(&self.files).as_chunks().0.iter().map(|x| i32::from_le_bytes(*x)).collect();
            if let Some(group) = of.iter().find(|group| usize::try_from(**group).map_or(true, |group| group >= groups))
            {
                return Err(self.wrong(found, format!("group {group} of a column, but there are {groups}")));
            }
            let even = groups > 0 && width.is_multiple_of(groups);
            if !even || of.iter().enumerate().any(|(column, group)| column / (width / groups) != *group as usize) {
                places = Some(found.place.clone());
            }
        }
        let blocks = order == Order::Float8;
        if groups == 0 || places.is_none() && !blocks && !width.is_multiple_of(groups) {
            return Err(self.wrong(&scales, format!("{groups} groups do not divide rows of {width} codes")));
        }
        let mut packed = Packed {
            order,
            shape,
            bits,
            groups,
            rows: of_scale[0],
            columns: of_scale[1],
            codes: codes.place,
            scale_type: scales.dtype,
            scales: scales.place,
            zeros: zeros.map(|found| found.place),
            groups_of: places,
            format: None,
        };
        packed.format = packed.format_of(self);
        Ok(packed)
    }

    /// A tensor; `None` if there is none of this name. Errors if it is in a PyTorch file.
    fn part(&self, name: &str) -> Result<Option<Found>, Error> {
        let Some(entry) = self.tensors.get(name) else { return Ok(None) };
        let found = |place| Found { name: name.to_owned(), shape: entry.shape.clone(), dtype: entry.dtype, place };
        match &entry.bytes {
            Stored::There(range) => Ok(Some(found(Place { file: entry.file, range: range.clone() }))),
            _ => {
                let place = Place { file: entry.file, range: 0..0 };
                let message = "packed weights are read from safetensors files only".into();
                Err(self.wrong(&found(place), message))
            }
        }
    }

    fn floats(&self, name: &str) -> Result<Found, Error> {
        let found = self.part(name)?.ok_or_else(|| self.missing(name))?;
        if FLOATS.contains(&found.dtype) {
            return Ok(found);
        }
        Err(self.wrong(&found, format!("want scales in F32, F16 or BF16, found {:?}", found.dtype)))
    }

    fn matrix(&self, found: &Found, types: &[Dtype]) -> Result<[usize; 2], Error> {
        match found.shape[..] {
            [a, b] if types.contains(&found.dtype) && a > 0 && b > 0 => Ok([a, b]),
            _ => {
                Err(self
                    .wrong(found, format!("want two axes of {types:?}, found {:?} of {:?}", found.shape, found.dtype)))
            }
        }
    }

    fn check(&self, found: &Found, dtype: Dtype, elements: usize) -> Result<(), Error> {
        let have: usize = found.shape.iter().product();
        if found.dtype == dtype && have == elements {
            return Ok(());
        }
        let message = format!("want {elements} elements of {dtype:?}, found {:?} of {:?}", found.shape, found.dtype);
        Err(self.wrong(found, message))
    }

    fn wrong(&self, found: &Found, message: String) -> Error {
        let file = self.files[found.place.file].0.clone();
        Error::Checkpoint { file, message: format!("tensor `{}`: {message}", found.name) }
    }
}

/// Two sizes.
fn join([rows, columns]: [usize; 2]) -> String {
    format!("{rows} x {columns}")
}

/// What a matrix consists of.
struct Parts {
    order: Order,
    shape: [usize; 2],
    bits: usize,
    groups: usize,
    /// The rows and columns that share a scale.
    of_scale: [usize; 2],
    codes: Found,
    scales: Found,
    zeros: Option<Found>,
    groups_of: Option<Found>,
}

const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// The ends of the names of what becomes one matrix. Scales of activations are not needed, as products find them anew.
const PARTS: [&str; 13] = [
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "input_scale",
    "input_zero_point",
    "weight",
];

impl Packed {
    /// The block format that has the same numbers, except for the rounding of scales to f16 and of minima.
    fn format_of(&self, all: &Checkpoint) -> Option<Format> {
        if self.order == Order::Float8 {
            return None;
        }
        let [rows, width] = self.shape;
        let whole = width.is_multiple_of(BLOCK) && (width / self.groups).is_multiple_of(BLOCK);
        if !whole || self.groups_of.is_some() {
            return None;
        }
        // What f16 has only with fewer bits, or not at all, would be another number.
        let scales = self.scales.of(&all.files);
        let count = self.scales.range.len() / (self.scale_type.bitsize() / 8);
        let largest = f16::MAX.to_f32() / (1 << self.bits) as f32;
        let fits = |x: f32| x == 0.0 || (f16::MIN_POSITIVE.to_f32()..=largest).contains(&x.abs());
        if !(0..count).all(|at| fits(number(scales, self.scale_type, at))) {
            return None;
        }
        let middle = 1 << (self.bits - 1);
        let symmetric = self.zeros.is_none()
            || (0..rows).all(|row| (0..self.groups).all(|group| self.zero(&all.files, row, group) == middle));
        match (self.bits, symmetric) {
            (4, true) => Some(Format::Q4_0),
            (4, false) => Some(Format::Q4_1),
            (_, true) => Some(Format::Q8_0),
            _ => None,
        }
    }
}
