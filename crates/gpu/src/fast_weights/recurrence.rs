//! The kernel: a recurrence of matrix states, token by token, with the state in registers.
//!
//! A cube has a segment of tokens, a head and a slice of the state's columns. Unit `(j, p)` owns the rows
//! `p R .. (p + 1) R` of column `j`, in registers. Inner vectors of some tokens are read into shared memory together, so
//! that each is read from device memory once a slice. Nothing is approximated or bounded in the gates: a decay is
//! applied when its token is reached.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::too_many_arguments,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe; kernels take buffers one by one"
)]

use cubecl::prelude::*;

use super::plan::{GateAxis, Plan};
use super::rule::{Factor, OPERATIONS, Operation, Outer};
use crate::formula::kernel::put;

#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn recurrence(
    inner: Sequence<Box<[f32]>>,
    outer: Sequence<Box<[f32]>>,
    gate: Sequence<Box<[f32]>>,
    strength: Sequence<Box<[f32]>>,
    skip: Sequence<Box<[f32]>>,
    first: Sequence<Box<[f32]>>,
    bounds: &[u32],
    slots: Sequence<Box<[u32]>>,
    mut out: Sequence<Box<[f32]>>,
    mut last: Sequence<Box<[f32]>>,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let part = UNIT_POS_Y as usize;
    let column = UNIT_POS_X as usize;
    let j = CUBE_POS_X as usize * comptime!(plan.columns) + column;
    let h = CUBE_POS_Y as usize;
    let n = CUBE_POS_Z as usize;
    let start = bounds[n] as usize;
    let count = bounds[n + 1] as usize - start;
    // The state of a slot is updated in place; a sequence without one starts from zero and leaves nothing.
    let mut place = n as u32;
    if comptime!(plan.has_slots) {
        place = slots[0][n];
    }
    let kept = place != 0xffff_ffffu32;
    let cells = (place as usize * comptime!(plan.heads) + h) * comptime!(plan.inner * plan.outer);

    let mut state = Array::<f32>::new(comptime!(plan.rows));
    #[unroll]
    for i in 0..comptime!(plan.rows) {
        state[i] = 0.0f32;
        let row = part * comptime!(plan.rows) + i;
        if row < comptime!(plan.inner) && j < comptime!(plan.outer) && kept {
            if comptime!(plan.has_slots) {
                state[i] = last[0][cells + cell(row, j, plan)];
            } else if comptime!(plan.has_first) {
                state[i] = first[0][cells + cell(row, j, plan)];
            }
        }
    }

    let mut rows = Shared::<[f32]>::new_slice(comptime!(plan.row_numbers()));
    let mut columns = Shared::<[f32]>::new_slice(comptime!(plan.column_numbers()));
    let mut gates = Shared::<[f32]>::new_slice(comptime!(plan.gate_numbers()));
    let mut sums = Shared::<[f32]>::new_slice(comptime!(plan.sum_numbers()));

    for tile in 0..count.div_ceil(comptime!(plan.tokens)) {
        let base = tile * comptime!(plan.tokens);
        load(&inner, &outer, &gate, &mut rows, &mut columns, &mut gates, start, count, base, plan);
        sync_cube();
        for t in 0..min(comptime!(plan.tokens), count - base) {
            let token = token_at(start, count, base + t, plan);
            let at_head = token * comptime!(plan.heads) + h;
            let mut found = 0.0f32;
            #[unroll]
            for step in 0..comptime!(OPERATIONS) {
                let operation = comptime!(plan.rule.get(step));
                if comptime!(operation == Operation::Decay) {
                    decay(&mut state, &gate, &gates, t, token, h, j, part, plan);
                }
                if comptime!(reads(operation)) {
                    let by = comptime!(by(operation));
                    let at = (by * comptime!(plan.tokens) + t) * comptime!(plan.rows * plan.parts)
                        + part * comptime!(plan.rows);
                    found = dot(&rows, at, &state, plan);
                    if comptime!(plan.parts > 1) {
                        found = total(found, &mut sums, comptime!(plan.rule.reads_before(step)), plan);
                    }
                }
                if comptime!(matches!(operation, Operation::Miss { .. })) {
                    found = columns[t * comptime!(plan.columns) + column] - found;
                }
                if comptime!(out_of(operation).is_some()) {
                    let mut value = found;
                    if comptime!(matches!(operation, Operation::ReadAndSkip { .. })) {
                        let by = skip[0][token * comptime!(plan.skip_stride) + h];
                        value = scale * found + by * columns[t * comptime!(plan.columns) + column];
                    } else {
                        value *= factor(&strength, at_head, scale, comptime!(factor_of(operation)));
                    }
                    if part == 0 && j < comptime!(plan.outer) {
                        let to = comptime!(out_of(operation).unwrap_or_default());
                        put(&mut out[to], at_head * comptime!(plan.outer) + j, value);
                    }
                }
                if comptime!(matches!(operation, Operation::Write { .. })) {
                    let mut y = found;
                    if comptime!(outer_of(operation).is_some()) {
                        let of = comptime!(outer_of(operation).unwrap_or_default());
                        y = columns[(of * comptime!(plan.tokens) + t) * comptime!(plan.columns) + column];
                    }
                    y *= factor(&strength, at_head, scale, comptime!(factor_of(operation)));
                    let by = comptime!(by(operation));
                    let at = (by * comptime!(plan.tokens) + t) * comptime!(plan.rows * plan.parts)
                        + part * comptime!(plan.rows);
                    #[unroll]
                    for i in 0..comptime!(plan.rows) {
                        state[i] += rows[at + i] * y;
                    }
                }
            }
            if comptime!(plan.parts > 1) {
                sync_cube();
            }
        }
        sync_cube();
    }

    if comptime!(plan.has_last) {
        #[unroll]
        for i in 0..comptime!(plan.rows) {
            let row = part * comptime!(plan.rows) + i;
            if row < comptime!(plan.inner) && j < comptime!(plan.outer) && kept {
                put(&mut last[0], cells + cell(row, j, plan), state[i]);
            }
        }
    }
}

/// Whether an operation reads the state.
fn reads(of: Operation) -> bool {
    matches!(of, Operation::Read { .. } | Operation::ReadAndSkip { .. })
}

/// The inner vector of an operation.
fn by(of: Operation) -> usize {
    match of {
        Operation::Read { by, .. } | Operation::ReadAndSkip { by, .. } | Operation::Write { by, .. } => by,
        _ => 0,
    }
}

/// The output of an operation.
fn out_of(of: Operation) -> Option<usize> {
    match of {
        Operation::Read { out, .. } | Operation::Miss { out } => out,
        Operation::ReadAndSkip { out, .. } => Some(out),
        _ => None,
    }
}

/// The input that an operation writes.
fn outer_of(of: Operation) -> Option<usize> {
    match of {
        Operation::Write { of: Outer::Input(of), .. } => Some(of),
        _ => None,
    }
}

/// The factor of an operation.
fn factor_of(of: Operation) -> Factor {
    match of {
        Operation::Read { times, .. } | Operation::Write { times, .. } => times,
        _ => Factor::One,
    }
}

/// The index of a cell within a state.
#[cube]
fn cell(row: usize, column: usize, #[comptime] plan: Plan) -> usize {
    if comptime!(plan.swapped) { column * comptime!(plan.inner) + row } else { row * comptime!(plan.outer) + column }
}

/// The token that is read as number `step` of a segment.
#[cube]
fn token_at(start: usize, count: usize, step: usize, #[comptime] plan: Plan) -> usize {
    if comptime!(plan.reverse) { start + count - 1 - step } else { start + step }
}

/// Copies the vectors of some tokens to shared memory, zeros where there are none.
#[cube]
fn load(
    inner: &Sequence<Box<[f32]>>,
    outer: &Sequence<Box<[f32]>>,
    gate: &Sequence<Box<[f32]>>,
    rows: &mut Shared<[f32]>,
    columns: &mut Shared<[f32]>,
    gates: &mut Shared<[f32]>,
    start: usize,
    count: usize,
    base: usize,
    #[comptime] plan: Plan,
) {
    let h = CUBE_POS_Y as usize;
    let height = comptime!(plan.rows * plan.parts);
    let numbers = comptime!(plan.tokens * plan.rows * plan.parts);
    #[unroll]
    for slot in 0..comptime!(plan.inners) {
        let heads = comptime!(plan.inner_heads[slot]);
        let of_head = h * heads / comptime!(plan.heads);
        for step in 0..comptime!(numbers.div_ceil(plan.units())) {
            let at = step * comptime!(plan.units()) + UNIT_POS as usize;
            let (t, row) = (at / height, at % height);
            if at < numbers {
                let mut value = 0.0f32;
                if base + t < count && row < comptime!(plan.inner) {
                    let token = token_at(start, count, base + t, plan);
                    value = inner[slot][(token * heads + of_head) * comptime!(plan.inner) + row];
                }
                rows[slot * numbers + at] = value;
            }
        }
    }
    let wide = comptime!(plan.tokens * plan.columns);
    #[unroll]
    for slot in 0..comptime!(plan.outers) {
        let heads = comptime!(plan.outer_heads[slot]);
        let of_head = h * heads / comptime!(plan.heads);
        for step in 0..comptime!(wide.div_ceil(plan.units())) {
            let at = step * comptime!(plan.units()) + UNIT_POS as usize;
            let (t, column) = (at / comptime!(plan.columns), at % comptime!(plan.columns));
            let j = CUBE_POS_X as usize * comptime!(plan.columns) + column;
            if at < wide {
                let mut value = 0.0f32;
                if base + t < count && j < comptime!(plan.outer) {
                    let token = token_at(start, count, base + t, plan);
                    value = outer[slot][(token * heads + of_head) * comptime!(plan.outer) + j];
                }
                columns[slot * wide + at] = value;
            }
        }
    }
    if comptime!(plan.gate == GateAxis::Inner) {
        for step in 0..comptime!(numbers.div_ceil(plan.units())) {
            let at = step * comptime!(plan.units()) + UNIT_POS as usize;
            let (t, row) = (at / height, at % height);
            if at < numbers {
                let mut value = 0.0f32;
                if base + t < count && row < comptime!(plan.inner) {
                    let token = token_at(start, count, base + t, plan);
                    value = gate[0][token * comptime!(plan.gate_stride) + h * comptime!(plan.inner) + row].exp();
                }
                gates[at] = value;
            }
        }
    }
}

/// `Σ_i x_i S_ij` over the unit's rows, in four sums.
#[cube]
fn dot(rows: &Shared<[f32]>, at: usize, state: &Array<f32>, #[comptime] plan: Plan) -> f32 {
    let mut a = 0.0f32;
    let mut b = 0.0f32;
    let mut c = 0.0f32;
    let mut d = 0.0f32;
    #[unroll]
    for i in 0..comptime!(plan.rows / 4) {
        a += rows[at + 4 * i] * state[4 * i];
        b += rows[at + 4 * i + 1] * state[4 * i + 1];
        c += rows[at + 4 * i + 2] * state[4 * i + 2];
        d += rows[at + 4 * i + 3] * state[4 * i + 3];
    }
    (a + b) + (c + d)
}

/// The sum over the parts of a column.
#[cube]
fn total(found: f32, sums: &mut Shared<[f32]>, #[comptime] read: usize, #[comptime] plan: Plan) -> f32 {
    let column = UNIT_POS_X as usize;
    let base = comptime!(read * plan.parts * plan.columns);
    sums[base + UNIT_POS_Y as usize * comptime!(plan.columns) + column] = found;
    sync_cube();
    let mut all = 0.0f32;
    #[unroll]
    for part in 0..comptime!(plan.parts) {
        all += sums[base + part * comptime!(plan.columns) + column];
    }
    all
}

/// Multiplies the unit's cells by the gate.
#[cube]
fn decay(
    state: &mut Array<f32>,
    gate: &Sequence<Box<[f32]>>,
    gates: &Shared<[f32]>,
    t: usize,
    token: usize,
    h: usize,
    j: usize,
    part: usize,
    #[comptime] plan: Plan,
) {
    if comptime!(plan.gate == GateAxis::Inner) {
        let at = t * comptime!(plan.rows * plan.parts) + part * comptime!(plan.rows);
        #[unroll]
        for i in 0..comptime!(plan.rows) {
            state[i] *= gates[at + i];
        }
    }
    if comptime!(plan.gate == GateAxis::Token || plan.gate == GateAxis::Outer) {
        let mut by = 0.0f32;
        if comptime!(plan.gate == GateAxis::Token) {
            by = gate[0][token * comptime!(plan.gate_stride) + h].exp();
        } else if j < comptime!(plan.outer) {
            by = gate[0][token * comptime!(plan.gate_stride) + h * comptime!(plan.outer) + j].exp();
        }
        #[unroll]
        for i in 0..comptime!(plan.rows) {
            state[i] *= by;
        }
    }
}

/// The factor of an operation.
#[cube]
fn factor(strength: &Sequence<Box<[f32]>>, at_head: usize, scale: f32, #[comptime] of: Factor) -> f32 {
    let mut by = 1.0f32;
    if comptime!(of == Factor::Scale) {
        by = scale;
    }
    if comptime!(of == Factor::Strength) {
        by = strength[0][at_head];
    }
    if comptime!(of == Factor::MinusStrength) {
        by = 0.0f32 - strength[0][at_head];
    }
    by
}
