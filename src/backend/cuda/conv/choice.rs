//! Chooses the kernel for each pass of a convolution, once for a pass, shape, type and what follows.
//!
//! It comes from the run that is repeated (`kernels.json` of a run folder), else from the cache of this user, which is
//! kept by GPU, driver and library, else it is measured.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use anyhow::{Context, Result};

use crate::backend::Conv;
use crate::backend::cuda::Options;
use crate::backend::cuda::conv::cache::{Cache, Timed, key, say_not_kept};
use crate::backend::cuda::conv::candidates::{ConvKernel, ours, theirs};
use crate::backend::cuda::conv::epilogue::Then;
use crate::backend::cuda::conv::libraries::{Libraries, versions};
use crate::backend::cuda::conv::measure::Trial;
use crate::backend::cuda::conv::run::{Choice, Runner};
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::backend::cuda::driver::{Device, kernels};

pub use crate::backend::cuda::conv::cache::Choices;

/// Makes choices, and remembers them.
pub struct Chooser {
    options: Options,
    /// What the choices are run by.
    pub runner: Runner,
    /// The choices of the run that is repeated.
    known: Choices,
    used: RefCell<Choices>,
    cache: RefCell<Cache>,
    /// Whether the GPU has been at work long enough to run at its usual clocks.
    warm: Cell<bool>,
    /// What people should know: libraries that are not there, a sentence each.
    pub notes: Vec<String>,
}

impl Chooser {
    /// A chooser for `device` that keeps to the choices `known` of the run that is repeated.
    ///
    /// # Errors
    /// Where the driver fails, or there is no memory for cuBLAS to work in.
    pub fn new(device: &Rc<Device>, options: Options, known: Choices) -> Result<Self> {
        let (libraries, notes, versions) = match options.conv {
            Conv::Ours => (Libraries::none(device, &options), Vec::new(), String::new()),
            Conv::Cudnn | Conv::Auto => {
                let (libraries, notes) = Libraries::open(device, &options)?;
                (libraries, notes, versions())
            }
        };
        let identity = format!(
            "{}, kernels {:016x}{}{versions}",
            device.identity()?,
            kernels::fingerprint(),
            if options.tf32 { " tf32" } else { "" },
        );
        Ok(Self {
            options,
            runner: Runner::new(device, options, libraries),
            known,
            used: RefCell::default(),
            cache: RefCell::new(Cache::open(identity)),
            warm: Cell::new(false),
            notes,
        })
    }

    /// The choices of the run that is repeated, and all made so far. What was measured for them is written to the
    /// user's cache, for other runs.
    pub fn choices(&self) -> Choices {
        self.cache.borrow_mut().write();
        let mut all = self.known.clone();
        all.extend(self.used.borrow().clone());
        all
    }

    /// Whether there is another to choose than ours.
    pub fn has_libraries(&self) -> bool {
        self.runner.libraries.any()
    }

    /// The choices made so far.
    pub fn used(&self) -> Choices {
        self.used.borrow().clone()
    }

    /// The fastest of our kernels and the fastest of the libraries' for the pass `key` of a convolution, as the keys of
    /// [`Choices`], with the milliseconds of each with what follows when it was measured; none where none was.
    pub fn fastest(&self, key: &str) -> [Option<(ConvKernel, f32)>; 2] {
        let times = self.cache.borrow().get(key);
        [true, false].map(|ours| {
            let of = times
                .iter()
                .filter(|t| matches!(t.kernel, ConvKernel::Ours { .. }) == ours);
            let timed = of.filter_map(|t| Some((t.kernel, t.ms?)));
            timed.min_by(|a, b| a.1.total_cmp(&b.1))
        })
    }

    /// The kernel for `pass` on maps of this shape, by what it takes with what comes `then`. Where it has to be measured,
    /// this takes a while and some memory
    /// ([`scratch_bytes`](super::scratch_bytes)).
    ///
    /// # Errors
    /// Where the kernel of the run that is repeated cannot be used here, memory does not suffice, or the GPU fails.
    pub fn choose(&self, pass: Pass, shape: &ConvShape, then: Then) -> Result<Choice> {
        let plain = key(pass, shape, self.options.precision);
        let key = format!("{plain}{then}");
        let used = self.used.borrow().get(&key).copied();
        // Earlier runs chose for the shape alone.
        let known = self.known.get(&key).or_else(|| self.known.get(&plain));
        let kernel = match used.or(known.copied()) {
            Some(kernel) => kernel,
            None => self.find(&key, (pass, shape), then)?,
        };
        let mut choice = self.runner.ready(kernel, pass, shape).with_context(|| {
            format!(
                "the kernel that this run has used for {key} cannot be used here (without its kernels.json, kernels are \
                 chosen anew, which may round differently)"
            )
        })?;
        choice.then = then;
        self.used.borrow_mut().insert(key, kernel);
        Ok(choice)
    }

    /// The fastest of those that may be chosen, by the cache where it knows, else measured.
    fn find(&self, key: &str, (pass, shape): (Pass, &ConvShape), then: Then) -> Result<ConvKernel> {
        let ours = ours(&self.runner.device, &self.options, pass, shape);
        let mut candidates = match self.options.conv {
            Conv::Ours => Vec::new(),
            Conv::Cudnn | Conv::Auto => theirs(&self.runner.libraries, pass, shape),
        };
        if self.options.conv != Conv::Cudnn {
            candidates.extend(&ours);
        }
        // What remains where a library has nothing for this shape, or nothing that is right.
        let fallback = ours[0];
        if candidates.is_empty() || candidates == [fallback] {
            return Ok(fallback);
        }
        let mut times = self.cache.borrow().get(key);
        let known = |times: &[Timed], kernel: ConvKernel| times.iter().any(|t| t.kernel == kernel);
        let unknown: Vec<ConvKernel> = candidates
            .iter()
            .copied()
            .filter(|&kernel| !known(&times, kernel))
            .collect();
        if !unknown.is_empty() {
            let trial = Trial::new(&self.runner, pass, shape, then)?;
            times.extend(trial.times(&unknown, fallback, &self.warm)?);
            if trial.is_usual() {
                self.cache.borrow_mut().put(key, &times);
            } else {
                say_not_kept("nothing can be recorded as a graph, which is how they would run");
            }
        }
        let may = times.iter().filter(|t| candidates.contains(&t.kernel));
        let timed = may.filter_map(|t| Some((t.kernel, t.ms?)));
        let best = timed.min_by(|a, b| a.1.total_cmp(&b.1));
        Ok(best.map_or(fallback, |(kernel, _)| kernel))
    }
}
