//! A [`Plan`] on a GPU. Each step runs over the whole batch; maps lie in the plan's slots, one allocation each.

use std::rc::Rc;

use anyhow::{Result, ensure};

use super::driver::{Device, Memory};
use super::ops::{conv_bias_relu, pool, resize};
use super::window::Window;
use crate::backend::extractor::{self, Pixels, Seen, check_filters};
use crate::model::plan::{Filter, Plan, Step, Work};

/// A plan with its weights on the device.
pub struct Extractor {
    device: Rc<Device>,
    plan: Plan,
    /// Weights and bias of each filter.
    filters: Vec<[Memory; 2]>,
    slots: Vec<Memory>,
    /// The batch as bytes, as large as the largest so far.
    pixels: Option<Memory>,
    most: usize,
}

impl Extractor {
    /// `plan` with `filters`, for at most `most` images at a time.
    ///
    /// # Errors
    /// Where these are not the plan's filters, or the GPU has not enough memory.
    pub fn new(device: &Rc<Device>, plan: &Plan, filters: &[Filter], most: usize) -> Result<Self> {
        check_filters(plan, filters)?;
        let put = |filter: &Filter| {
            let weights = Memory::of(device, &filter.weights)?;
            anyhow::Ok([weights, Memory::of(device, &filter.bias)?])
        };
        let slot = |&elements: &usize| Memory::new(device, 4 * elements * most);
        Ok(Self {
            device: Rc::clone(device),
            filters: filters.iter().map(put).collect::<Result<_>>()?,
            slots: plan.slots.iter().map(slot).collect::<Result<_>>()?,
            pixels: None,
            plan: plan.clone(),
            most,
        })
    }

    fn launch(&self, step: &Step, n: usize) -> Result<()> {
        let (from, to) = (self.plan.maps[step.input], self.plan.maps[step.output]);
        let window = Window::new(&step.window, from.shape, to.shape);
        let x = self.slots[from.slot].span();
        let y = self.slots[to.slot].span().after(4 * step.channel)?;
        match step.work {
            Work::Convolution(filter) => {
                let [weights, bias] = &self.filters[filter];
                let tile = conv_bias_relu::tile(n * window.pixels(), from.shape.c, step.channels);
                let read = (x, weights.span(), bias.span());
                let write = (y, step.channels, to.shape.c);
                conv_bias_relu::forward(&self.device, tile, &window, n, read, write)
            }
            Work::Pool(kind) => pool::forward(&self.device, kind, &window, n, x, (y, to.shape.c)),
        }
    }

    fn steps(&mut self, images: Pixels<'_>, mut seen: Option<&mut Seen<'_>>) -> Result<Vec<f32>> {
        let n = images.count();
        ensure!(
            n <= self.most,
            "{n} images at a time, and at most {} were said",
            self.most
        );
        let bytes = images.data.len();
        let pixels = match self.pixels.take() {
            Some(there) if there.span().bytes >= bytes => there,
            _ => Memory::new(&self.device, bytes)?,
        };
        pixels.upload(images.data)?;
        let image = self.plan.maps[0];
        resize::forward(
            &self.device,
            (pixels.span(), images.size, images.channels),
            self.slots[image.slot].span(),
            (n, image.shape),
        )?;
        self.pixels = Some(pixels);
        for step in &self.plan.steps {
            self.launch(step, n)?;
            if let Some(seen) = &mut seen {
                let map = self.plan.maps[step.output];
                let values = self.slots[map.slot].download::<f32>(n * map.shape.len())?;
                seen(step, map.shape, &values)?;
            }
        }
        let output = self.plan.maps[self.plan.output_map()];
        self.slots[output.slot].download(n * output.shape.len())
    }
}

impl extractor::Extractor for Extractor {
    fn run(&mut self, images: Pixels<'_>) -> Result<Vec<f32>> {
        self.steps(images, None)
    }

    fn run_seen(&mut self, images: Pixels<'_>, seen: &mut Seen<'_>) -> Result<Vec<f32>> {
        self.steps(images, Some(seen))
    }
}
