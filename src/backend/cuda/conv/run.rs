//! Runs a pass of a convolution by the kernel that was chosen for it.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Result, bail, ensure};
use cudarc::driver::sys::CUstreamCaptureStatus;

use crate::backend::Precision;
use crate::backend::cuda::Options;
use crate::backend::cuda::conv::cache::key;
use crate::backend::cuda::conv::candidates::ConvKernel;
use crate::backend::cuda::conv::cudnn::CudnnConvolution;
use crate::backend::cuda::conv::cut::{Cut, Parts};
use crate::backend::cuda::conv::epilogue::{Epilogue, Then};
use crate::backend::cuda::conv::libraries::Libraries;
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::backend::cuda::driver::{Convolution, Device, Explained, Memory, Span, Work};
use crate::backend::cuda::ops::batch_norm::SEGMENTS;
use crate::backend::cuda::ops::{activation, cast, conv_transpose2d, conv_wgrad, conv2d};
use crate::model::Activation;

/// A kernel for a pass of a convolution, ready to run.
pub struct Choice {
    /// What runs it.
    pub kernel: ConvKernel,
    pass: Pass,
    shape: ConvShape,
    convolution: Option<CudnnConvolution>,
    /// What it was chosen for.
    pub then: Then,
}

impl Choice {
    /// How our kernel cuts the pass over `segments` inputs; `None` where the kernel is a library's, which has no
    /// epilogues.
    pub fn cut(&self, precision: Precision, segments: usize) -> Option<Cut> {
        match self.kernel {
            ConvKernel::Ours { tile, splits } => {
                Cut::new(self.pass, &self.shape, precision, (tile, splits), segments).ok()
            }
            ConvKernel::Cudnn(_) | ConvKernel::Cublas => None,
        }
    }
}

/// What kernels of one stream work in, one after the other; the last of each. What was too small stays, since a recorded
/// iteration may use it.
#[derive(Default)]
struct Room {
    /// Of all kernels but cuBLAS's.
    workspaces: RefCell<Vec<Memory>>,
    /// Counters of the blocks that have arrived, all 0 between launches.
    counters: RefCell<Vec<Memory>>,
}

impl Room {
    /// Sees to a workspace of so many bytes.
    fn reserve(&self, device: &Rc<Device>, bytes: usize) -> Result<()> {
        let mut workspaces = self.workspaces.borrow_mut();
        if workspaces.last().map_or(0, |w| w.span().bytes) < bytes {
            workspaces.push(Memory::new(device, bytes)?);
        }
        Ok(())
    }

    /// Sees to counters of so many bytes.
    fn reserve_counters(&self, device: &Rc<Device>, bytes: usize) -> Result<()> {
        let mut counters = self.counters.borrow_mut();
        if counters.last().map_or(0, |c| c.span().bytes) < bytes {
            counters.push(Memory::zeroed(device, bytes)?);
        }
        Ok(())
    }

    fn parts(&self) -> Parts {
        let counters = self.counters.borrow();
        Parts {
            partial: self.workspace(),
            arrived: counters.last().map_or(Span::NONE, Memory::span),
        }
    }

    fn workspace(&self) -> Span {
        let workspaces = self.workspaces.borrow();
        workspaces.last().map_or(Span::NONE, Memory::span)
    }
}

/// Makes kernels ready and runs them: on the main stream, and in branches those of ours that make weight gradients.
pub struct Runner {
    pub(super) options: Options,
    pub(super) libraries: Libraries,
    /// The main stream's, and the side stream's.
    rooms: [Room; 2],
    /// The last to go: the libraries use its stream.
    pub(super) device: Rc<Device>,
}

impl Runner {
    pub(super) fn new(device: &Rc<Device>, options: Options, libraries: Libraries) -> Self {
        Self {
            options,
            libraries,
            rooms: Default::default(),
            device: Rc::clone(device),
        }
    }

    /// `kernel` with all that it takes to run `pass` on maps of this shape, and memory to work in.
    ///
    /// # Errors
    /// Where it cannot run that, its library is not there, or memory does not suffice.
    pub(super) fn ready(
        &self,
        kernel: ConvKernel,
        pass: Pass,
        shape: &ConvShape,
    ) -> Result<Choice> {
        let precision = self.options.precision;
        let [main, side] = &self.rooms;
        let beside = pass == Pass::Weights && self.options.fuse.branches;
        let (convolution, workspace) = match kernel {
            ConvKernel::Ours { tile, splits } => {
                ensure!(
                    tile.fits(pass, shape, precision),
                    "{tile:?} does not fit {shape:?}"
                );
                let mut partial = 0;
                for segments in 1..=SEGMENTS {
                    if let Ok(cut) = Cut::new(pass, shape, precision, (tile, splits), segments) {
                        let [parts, arrived] = cut.needs();
                        partial = parts.max(partial);
                        main.reserve_counters(&self.device, arrived)?;
                        if beside {
                            side.reserve(&self.device, parts)?;
                            side.reserve_counters(&self.device, arrived)?;
                        }
                    }
                }
                (None, partial)
            }
            ConvKernel::Cudnn(algorithm) => {
                let room = self.in_front(pass, shape) + algorithm.workspace;
                (Some(self.libraries.convolution(shape)?), room)
            }
            ConvKernel::Cublas => {
                ensure!(
                    self.libraries.cublas().is_ok() && shape.is_matrix(),
                    "cuBLAS is not there; `dcgan-cuda doctor` says how to get it"
                );
                (None, 0)
            }
        };
        main.reserve(&self.device, workspace)?;
        Ok(Choice {
            kernel,
            pass,
            shape: *shape,
            convolution,
            then: Then::NOTHING,
        })
    }

    /// What kernels work in on the stream that launches go to now.
    fn room(&self) -> &Room {
        &self.rooms[usize::from(self.device.is_beside())]
    }

    /// Bytes in front of what cuDNN works in: its weight gradient of halves, before it becomes f32.
    fn in_front(&self, pass: Pass, shape: &ConvShape) -> usize {
        let precision = self.options.precision;
        match pass {
            Pass::Weights if precision != Precision::Fp32 => {
                (precision.size() * shape.weights()).next_multiple_of(256)
            }
            _ => 0,
        }
    }

    /// Queues a pass that makes a map; `out` is overwritten:
    /// - `Gather`: small map = e(large map `a` ∗ weights `b`);
    /// - `Scatter`: large map = e(small map `a` ∗ᵀ weights `b`).
    ///
    /// Maps are NHWC and weights `[k][r][s][c]`, of the storage type; sums are f32, rounded once to the type of `out`
    /// (twice where a library has no such activation). The maps are `segments` inputs. A library has no epilogue but an
    /// activation ([`Choice::cut`]).
    ///
    /// # Errors
    /// Where a span is too short for the shape, the kernel has no such epilogue, or the driver or a library refuses the
    /// launch.
    pub fn map(
        &self,
        choice: &Choice,
        (a, b, out): (Span, Span, Span),
        (epilogue, segments): (&Epilogue, usize),
    ) -> Result<()> {
        let (device, precision) = (&self.device, self.options.precision);
        let (pass, shape) = (choice.pass, &choice.shape);
        let _within = device.within(|| self.described(choice));
        if let ConvKernel::Ours { tile, splits } = choice.kernel {
            let cut = Cut::new(pass, shape, precision, (tile, splits), segments)?;
            let (maps, parts, then) = ((a, b, out), self.room().parts(), (epilogue, segments));
            return match pass {
                Pass::Gather => conv2d::fprop(device, precision, &cut, shape, maps, then, &parts),
                Pass::Scatter => {
                    conv_transpose2d::fprop(device, precision, &cut, shape, maps, then, &parts)
                }
                Pass::Weights => bail!("weights are no map"),
            };
        }
        let Epilogue::Activation(activation) = *epilogue else {
            bail!("a library has no such epilogue");
        };
        self.theirs(choice, a, b, out)?;
        self.activate(pass, shape, out, activation)
    }

    /// Queues the weight gradient from the large map `a` and the small map `b` into `dw`, f32 `[k][r][s][c]`, overwritten,
    /// summed in f32 (where a library writes halves, rounded in between). `not_finite`, a u32, becomes 1 where an
    /// element is not finite, if the kernel is ours.
    ///
    /// # Errors
    /// Where a span is too short for the shape, or the driver or a library refuses the launch.
    pub fn weights(
        &self,
        choice: &Choice,
        (a, b, dw): (Span, Span, Span),
        not_finite: Option<Span>,
    ) -> Result<()> {
        let (device, precision, shape) = (&self.device, self.options.precision, &choice.shape);
        ensure!(choice.pass == Pass::Weights, "a map is no weights");
        let _within = device.within(|| self.described(choice));
        match choice.kernel {
            ConvKernel::Ours { tile, splits } => {
                let cut = Cut::new(Pass::Weights, shape, precision, (tile, splits), 1)?;
                let maps = (b, a, dw);
                conv_wgrad::wgrad(
                    device,
                    precision,
                    &cut,
                    shape,
                    maps,
                    not_finite,
                    &self.room().parts(),
                )
            }
            ConvKernel::Cudnn(_) | ConvKernel::Cublas => self.theirs(choice, a, b, dw),
        }
    }

    /// What its launches are a part of, where they are timed.
    fn described(&self, choice: &Choice) -> Convolution {
        Convolution {
            key: format!(
                "{}{}",
                key(choice.pass, &choice.shape, self.options.precision),
                choice.then
            ),
            flop: choice.shape.flop(),
        }
    }

    /// Queues a pass by a library's kernel.
    fn theirs(&self, choice: &Choice, a: Span, b: Span, out: Span) -> Result<()> {
        let (device, precision) = (&self.device, self.options.precision);
        let (pass, shape) = (choice.pass, &choice.shape);
        let needed = self.check_lengths(pass, shape, a, b, out)?;
        let work = || Work {
            kernel: choice.kernel.to_string(),
            bytes: needed.iter().sum::<usize>() as u64,
            ..Work::default()
        };
        // The library gives the main stream what is no launch of ours.
        device.main();
        match choice.kernel {
            ConvKernel::Ours { .. } => bail!("a kernel of ours"),
            ConvKernel::Cudnn(algorithm) => {
                let Some(convolution) = &choice.convolution else {
                    bail!("a choice of cuDNN without cuDNN");
                };
                let workspace = self.room().workspace();
                let in_front = self.in_front(pass, shape);
                let room = workspace.after(in_front)?;
                ensure!(
                    algorithm.workspace <= room.bytes,
                    "cuDNN needs {} bytes to work in, {} are there",
                    algorithm.workspace,
                    room.bytes
                );
                let halves = in_front > 0;
                let to = if halves { workspace } else { out };
                let room = room.pointer;
                device.timed(work, || {
                    // SAFETY: lengths were checked; all of it is Memory that lives until the streams are done.
                    let done = unsafe {
                        convolution.run(pass, &algorithm, a.pointer, b.pointer, to.pointer, room)
                    };
                    done.map_err(|error| self.or_lost(error))
                })?;
                match halves {
                    true => cast::to_f32(device, precision, to, out, shape.weights()),
                    false => Ok(()),
                }
            }
            ConvKernel::Cublas => {
                let cublas = self.libraries.cublas()?;
                device.timed(work, || {
                    // SAFETY: lengths were checked; all of it is Memory that lives until the streams are done.
                    let done =
                        unsafe { cublas.run(pass, shape, a.pointer, b.pointer, out.pointer) };
                    done.map_err(|error| self.or_lost(error))
                })
            }
        }
    }

    /// The driver's error, where the GPU does not work any more; else the library's.
    fn or_lost(&self, error: anyhow::Error) -> anyhow::Error {
        // Not while an iteration is being recorded: that would end the recording.
        let main = self.device.main();
        let recording = main.capture_status();
        match recording.is_ok_and(|s| s == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE) {
            true => main
                .synchronize()
                .to("finish its work")
                .err()
                .unwrap_or(error),
            false => error,
        }
    }

    /// Refuses spans that are too short; the bytes that each needs.
    fn check_lengths(
        &self,
        pass: Pass,
        shape: &ConvShape,
        a: Span,
        b: Span,
        out: Span,
    ) -> Result<[usize; 3]> {
        let size = self.options.precision.size();
        let (small, large) = (size * shape.small_len(), size * shape.large_len());
        let weight = size * shape.weights();
        let needed = match pass {
            Pass::Gather => [large, weight, small],
            Pass::Scatter => [small, weight, large],
            Pass::Weights => [large, small, 4 * shape.weights()],
        };
        for (span, bytes) in [a, b, out].into_iter().zip(needed) {
            ensure!(span.bytes >= bytes, "{} bytes of {bytes}", span.bytes);
        }
        Ok(needed)
    }

    fn activate(
        &self,
        pass: Pass,
        shape: &ConvShape,
        map: Span,
        activation: Activation,
    ) -> Result<()> {
        if activation == Activation::None {
            return Ok(());
        }
        let count = match pass {
            Pass::Gather => shape.small_len(),
            _ => shape.large_len(),
        };
        let precision = self.options.precision;
        activation::forward(&self.device, precision, activation, map, map, count)
    }
}
