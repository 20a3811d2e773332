//! Networks that are only run forward, as a list of steps: what a network of other people's weights is made of, whose
//! convolutions have kernels of every shape, and whose maps branch and are put together again.
//!
//! A network is described by [`Layer`]s; [`Plan::new`] makes of it which step reads and writes which map. Several
//! branches write into one map, each from a channel on, so that putting them together costs nothing. Maps whose time
//! does not overlap share a slot of memory.

use anyhow::{Result, ensure};

use crate::model::Shape;

/// Where a convolution or a pool looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns.
    pub kernel: [usize; 2],
    /// Pixels from one place to the next, in both directions.
    pub stride: usize,
    /// Rows and columns outside the map, at each of its edges.
    pub padding: [usize; 2],
}

impl Window {
    /// The map that looking at `input` through the window gives, of `channels` channels.
    fn output(&self, input: Shape, channels: usize) -> Result<Shape> {
        let side = |length: usize, which: usize| {
            let (kernel, padding) = (self.kernel[which], self.padding[which]);
            ensure!(
                kernel > padding && self.stride > 0 && length + 2 * padding >= kernel,
                "a window of {kernel} with {padding} beside does not fit {length}"
            );
            Ok((length + 2 * padding - kernel) / self.stride + 1)
        };
        Ok(Shape::new(side(input.h, 0)?, side(input.w, 1)?, channels))
    }

    /// The part of the kernel (from, to) that lies inside a map when it is at place `at` of the output: in rows of a map
    /// of that `length` where `which` is 0, in columns where it is 1. And the pixel that the first of it meets.
    pub fn inside(&self, which: usize, at: usize, length: usize) -> (usize, usize, usize) {
        let (begin, padding) = (at * self.stride, self.padding[which]);
        let from = padding.saturating_sub(begin);
        let to = self.kernel[which].min((length + padding).saturating_sub(begin));
        (from, to, begin + from - padding)
    }
}

/// What a pool makes of the pixels in its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The largest.
    Max,
    /// The mean of those that lie inside the map, as TensorFlow has it (PyTorch: `count_include_pad=False`).
    Average,
}

/// A piece of a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// A convolution with a bias, then ReLU.
    Convolution {
        /// Whose filter it is.
        name: String,
        /// Channels that it puts out.
        channels: usize,
        /// Where it looks.
        window: Window,
    },
    /// A pool.
    Pool(Pool, Window),
    /// The mean of all pixels of each channel.
    Mean,
    /// Branches, each layers in a row, that all read the same map and are put together in this order.
    Branches(Vec<Vec<Layer>>),
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A convolution with the filter of this index, its bias and ReLU.
    Convolution(usize),
    /// A pool.
    Pool(Pool),
}

/// One step: from a map into all of a map's pixels, and some of its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub work: Work,
    /// Where it looks.
    pub window: Window,
    /// Index of the map that it reads.
    pub input: usize,
    /// Index of the map that it writes to.
    pub output: usize,
    /// Channel of that map that its first one is.
    pub channel: usize,
    /// How many channels it writes.
    pub channels: usize,
}

/// A batch of feature maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Of one image, NHWC in memory.
    pub shape: Shape,
    /// Index of the slot that it lies in.
    pub slot: usize,
}

/// What a convolution's filter has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterShape {
    /// The convolution's name.
    pub name: String,
    /// Rows and columns.
    pub kernel: [usize; 2],
    /// Channels of its input.
    pub inputs: usize,
    /// Channels of its output.
    pub outputs: usize,
}

impl FilterShape {
    /// Elements of its weights.
    pub fn len(&self) -> usize {
        self.row() * self.outputs
    }

    /// Whether it has no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Weights of one channel of the output.
    pub fn row(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.inputs
    }
}

/// A convolution's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// `[row][column][input channel][output channel]`.
    pub weights: Vec<f32>,
    /// `[output channel]`.
    pub bias: Vec<f32>,
}

/// A network that is run forward: map 0 is its input, the last step's map its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// All maps.
    pub maps: Vec<Map>,
    /// In the order in which they are done.
    pub steps: Vec<Step>,
    /// By the index that [`Work::Convolution`] has.
    pub filters: Vec<FilterShape>,
    /// Elements of each slot for one image.
    pub slots: Vec<usize>,
}

impl Plan {
    /// The steps of `layers` on images of the shape `input`.
    ///
    /// # Errors
    /// Where a window does not fit its map, branches differ in height or width, or there is nothing to do.
    pub fn new(layers: &[Layer], input: Shape) -> Result<Self> {
        let mut plan = Self {
            maps: vec![Map {
                shape: input,
                slot: 0,
            }],
            steps: Vec::new(),
            filters: Vec::new(),
            slots: Vec::new(),
        };
        plan.add(layers, 0, None)?;
        plan.share_slots();
        Ok(plan)
    }

    /// Index of the map that the last step writes to.
    pub fn output_map(&self) -> usize {
        self.steps.last().map_or(0, |step| step.output)
    }

    /// Shape of the output.
    pub fn output(&self) -> Shape {
        self.maps[self.output_map()].shape
    }

    /// Bytes of all slots for `images` images, in numbers of `size` bytes.
    pub fn slot_bytes(&self, images: usize, size: usize) -> u64 {
        self.slots.iter().sum::<usize>() as u64 * images as u64 * size as u64
    }

    /// The shape that `layers` make of `input`.
    fn shape_of(layers: &[Layer], input: Shape) -> Result<Shape> {
        ensure!(!layers.is_empty(), "a branch without layers");
        layers.iter().try_fold(input, |shape, layer| match layer {
            Layer::Convolution {
                channels, window, ..
            } => window.output(shape, *channels),
            Layer::Pool(_, window) => window.output(shape, shape.c),
            Layer::Mean => Ok(Shape::new(1, 1, shape.c)),
            Layer::Branches(branches) => {
                let mut whole: Option<Shape> = None;
                for branch in branches {
                    let one = Self::shape_of(branch, shape)?;
                    let before = whole.get_or_insert(Shape::new(one.h, one.w, 0));
                    ensure!(
                        (before.h, before.w) == (one.h, one.w),
                        "branches of {}×{} and {}×{} cannot be put together",
                        before.h,
                        before.w,
                        one.h,
                        one.w
                    );
                    before.c += one.c;
                }
                whole.ok_or_else(|| anyhow::anyhow!("no branches"))
            }
        })
    }

    /// Adds `layers`, which read the map `input`. The last one writes to a map that is there, from a channel on, where
    /// `into` says so, else to a new one.
    fn add(
        &mut self,
        layers: &[Layer],
        mut input: usize,
        into: Option<(usize, usize)>,
    ) -> Result<()> {
        ensure!(!layers.is_empty(), "a branch without layers");
        for (index, layer) in layers.iter().enumerate() {
            let from = self.maps[input].shape;
            let shape = Self::shape_of(std::slice::from_ref(layer), from)?;
            let (output, channel) = match into {
                Some(place) if index + 1 == layers.len() => place,
                _ => {
                    self.maps.push(Map { shape, slot: 0 });
                    (self.maps.len() - 1, 0)
                }
            };
            let whole = Window {
                kernel: [from.h, from.w],
                stride: 1,
                padding: [0, 0],
            };
            let (work, window) = match layer {
                Layer::Convolution {
                    name,
                    channels,
                    window,
                } => {
                    self.filters.push(FilterShape {
                        name: name.clone(),
                        kernel: window.kernel,
                        inputs: from.c,
                        outputs: *channels,
                    });
                    (Work::Convolution(self.filters.len() - 1), *window)
                }
                Layer::Pool(pool, window) => (Work::Pool(*pool), *window),
                Layer::Mean => (Work::Pool(Pool::Average), whole),
                Layer::Branches(branches) => {
                    let mut at = channel;
                    for branch in branches {
                        self.add(branch, input, Some((output, at)))?;
                        at += Self::shape_of(branch, from)?.c;
                    }
                    input = output;
                    continue;
                }
            };
            self.steps.push(Step {
                work,
                window,
                input,
                output,
                channel,
                channels: shape.c,
            });
            input = output;
        }
        Ok(())
    }

    /// Gives every map a slot that nobody else has from when it is first written to when it is last read.
    fn share_slots(&mut self) {
        let maps = self.maps.len();
        let mut last_read = vec![0; maps];
        for (at, step) in self.steps.iter().enumerate() {
            last_read[step.input] = at;
            // What nobody reads is the output, which stays.
            last_read[step.output] = usize::MAX;
        }
        let mut free: Vec<usize> = Vec::new();
        let mut there = vec![false; maps];
        for at in 0..self.steps.len() {
            let Step { input, output, .. } = self.steps[at];
            for map in [input, output] {
                if !std::mem::replace(&mut there[map], true) {
                    self.maps[map].slot = self.take_slot(&mut free, self.maps[map].shape.len());
                }
            }
            if last_read[input] == at {
                free.push(self.maps[input].slot);
            }
        }
    }

    /// The free slot that fits best, or the largest of them, made larger, or a new one.
    fn take_slot(&mut self, free: &mut Vec<usize>, elements: usize) -> usize {
        let slots = &mut self.slots;
        let fitting = |&at: &usize| match slots[free[at]] {
            size if size >= elements => (0, size),
            size => (1, usize::MAX - size),
        };
        let Some(at) = (0..free.len()).min_by_key(fitting) else {
            slots.push(elements);
            return slots.len() - 1;
        };
        let slot = free.swap_remove(at);
        slots[slot] = slots[slot].max(elements);
        slot
    }
}
