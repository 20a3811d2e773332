//! Between PyTorch's layouts and those that the backends compute in. Values are moved, never changed.

use crate::model::arch::Shape;

/// Images in f32 NCHW → NHWC; `shape` is that of one image.
pub fn nchw_to_nhwc(values: &[f32], shape: Shape) -> Vec<f32> {
    transpose_each(values, shape.c, shape.h * shape.w)
}

/// Images in f32 NHWC → NCHW; `shape` is that of one image.
pub fn nhwc_to_nchw(values: &[f32], shape: Shape) -> Vec<f32> {
    transpose_each(values, shape.h * shape.w, shape.c)
}

/// Matrices `[rows][columns]`, one after the other, each transposed.
fn transpose_each(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for matrix in values.chunks_exact((rows * columns).max(1)) {
        for column in 0..columns {
            out.extend((0..rows).map(|row| matrix[row * columns + column]));
        }
    }
    out
}

/// How the weights of a convolution lie in a backend: k channels of the small map, c of the large one, taps (r, s).
/// PyTorch has `[k][c][r][s]` ([`Block::weight_shape`](super::Block::weight_shape)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterLayout {
    /// `[k][r][s][c]`.
    Krsc,
    /// `[r][s][c][k]`.
    Rsck,
}

impl FilterLayout {
    /// Calls `pair(here, there)` for every element of weights of PyTorch's shape `[k, c, r, s]`: its place in this
    /// layout, counted up from 0, and its place in PyTorch's.
    fn for_each(self, [k, c, r, s]: [usize; 4], mut pair: impl FnMut(usize, usize)) {
        let taps = r * s;
        let mut here = 0;
        let mut next = |k: usize, tap: usize, channel: usize| {
            pair(here, (k * c + channel) * taps + tap);
            here += 1;
        };
        match self {
            Self::Krsc => {
                for k in 0..k {
                    for tap in 0..taps {
                        (0..c).for_each(|channel| next(k, tap, channel));
                    }
                }
            }
            Self::Rsck => {
                for tap in 0..taps {
                    for channel in 0..c {
                        (0..k).for_each(|k| next(k, tap, channel));
                    }
                }
            }
        }
    }

    /// Weights in this layout → PyTorch's `[k][c][r][s]`, whose sizes are `shape`.
    pub fn to_pytorch(self, shape: [usize; 4], values: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; values.len()];
        self.for_each(shape, |here, there| out[there] = values[here]);
        out
    }

    /// PyTorch's `[k][c][r][s]`, whose sizes are `shape` → weights in this layout.
    pub fn from_pytorch(self, shape: [usize; 4], values: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; values.len()];
        self.for_each(shape, |here, there| out[here] = values[there]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_transposed_each_on_its_own() {
        // Two images of 1×2 pixels and 3 channels.
        let nchw = [0., 1., 10., 11., 20., 21., 30., 31., 40., 41., 50., 51.];
        let nhwc = [0., 10., 20., 1., 11., 21., 30., 40., 50., 31., 41., 51.];
        let shape = Shape::new(1, 2, 3);
        assert_eq!(nchw_to_nhwc(&nchw, shape), nhwc);
        assert_eq!(nhwc_to_nchw(&nhwc, shape), nchw);
    }

    #[test]
    fn filters_lie_as_their_layout_says() {
        let [k, c, r, s] = [3, 2, 4, 4];
        let shape = [k, c, r, s];
        let pytorch: Vec<f32> = (0..k * c * r * s).map(|i| i as f32).collect();
        let krsc = FilterLayout::Krsc.from_pytorch(shape, &pytorch);
        let rsck = FilterLayout::Rsck.from_pytorch(shape, &pytorch);
        for (i, &value) in pytorch.iter().enumerate() {
            let (k0, c0, tap) = (i / (c * 16), i / 16 % c, i % 16);
            assert_eq!(krsc[(k0 * 16 + tap) * c + c0], value);
            assert_eq!(rsck[(tap * c + c0) * k + k0], value);
        }
        assert_eq!(FilterLayout::Krsc.to_pytorch(shape, &krsc), pytorch);
        assert_eq!(FilterLayout::Rsck.to_pytorch(shape, &rsck), pytorch);
    }
}
