//! Cutting outputs into disjoint parts, so that tasks share nothing.

/// The columns of a contiguous matrix in blocks: part `j` holds, for every row, the slice of columns
/// `j · block .. (j + 1) · block` (the last may be shorter).
pub fn columns(out: &mut [f32], width: usize, block: usize) -> Vec<Vec<&mut [f32]>> {
    if width == 0 || block == 0 {
        return Vec::new();
    }
    let rows = out.len() / width;
    let mut parts: Vec<Vec<&mut [f32]>> = (0..width.div_ceil(block)).map(|_| Vec::with_capacity(rows)).collect();
    for row in out.chunks_mut(width) {
        for (part, piece) in parts.iter_mut().zip(row.chunks_mut(block)) {
            part.push(piece);
        }
    }
    parts
}
