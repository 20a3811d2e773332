//! Where the kernels of networks that are only run forward look.

use bytemuck::{Pod, Zeroable};

use crate::model::Shape;
use crate::model::plan;

/// `struct Window` of cuda/include/window.cuh: pixel (i, j) of the output looks at rows from stride·i − pad_h on of the
/// input, and likewise at columns.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Window {
    /// Rows of the input.
    pub in_h: u32,
    /// Columns of the input.
    pub in_w: u32,
    /// Channels of the input.
    pub c: u32,
    /// Rows of the output.
    pub out_h: u32,
    /// Columns of the output.
    pub out_w: u32,
    /// Rows looked at.
    pub kernel_h: u32,
    /// Columns looked at.
    pub kernel_w: u32,
    /// Pixels from one place to the next.
    pub stride: u32,
    /// Rows outside the input, above and below.
    pub pad_h: u32,
    /// Columns outside the input, left and right.
    pub pad_w: u32,
}

impl Window {
    /// `window` on maps of the shape `input`, which gives such of the height and width of `output`.
    pub fn new(window: &plan::Window, input: Shape, output: Shape) -> Self {
        Self {
            in_h: input.h as u32,
            in_w: input.w as u32,
            c: input.c as u32,
            out_h: output.h as u32,
            out_w: output.w as u32,
            kernel_h: window.kernel[0] as u32,
            kernel_w: window.kernel[1] as u32,
            stride: window.stride as u32,
            pad_h: window.padding[0] as u32,
            pad_w: window.padding[1] as u32,
        }
    }

    /// Elements of an input map.
    pub fn input_len(&self) -> usize {
        self.in_h as usize * self.in_w as usize * self.c as usize
    }

    /// Pixels of an output map.
    pub fn pixels(&self) -> usize {
        self.out_h as usize * self.out_w as usize
    }

    /// Elements that one element of a convolution's output sums.
    pub fn depth(&self) -> usize {
        self.kernel_h as usize * self.kernel_w as usize * self.c as usize
    }

    /// Bytes behind the first channel written of `n` output maps in f32, whose pixels have `stored` channels and of which
    /// `channels` are written.
    pub fn written(&self, n: usize, channels: usize, stored: usize) -> usize {
        4 * ((n * self.pixels() - 1) * stored + channels)
    }
}
