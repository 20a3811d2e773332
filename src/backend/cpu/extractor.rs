//! A [`Plan`] on the CPU. Each step runs over the whole batch; maps lie in the plan's slots.

use anyhow::{Result, ensure};

use super::{Real, conv_bias_relu, pool, resize};
use crate::backend::extractor::{self, Pixels, Seen, check_filters};
use crate::memory;
use crate::model::plan::{Filter, Plan, Work};

/// A plan with its weights.
pub struct Extractor<T> {
    plan: Plan,
    /// Weights and bias of each filter.
    filters: Vec<[Vec<T>; 2]>,
    slots: Vec<Vec<T>>,
    most: usize,
}

impl<T: Real> Extractor<T> {
    /// `plan` with `filters`, for at most `most` images at a time.
    ///
    /// # Errors
    /// Where these are not the plan's filters, or there is not enough memory.
    pub fn new(plan: &Plan, filters: &[Filter], most: usize) -> Result<Self> {
        check_filters(plan, filters)?;
        let weights: usize = filters.iter().map(|f| f.weights.len()).sum();
        let needed = plan.slot_bytes(most, size_of::<T>()) + (weights * size_of::<T>()) as u64;
        memory::ensure(
            needed,
            format_args!("a network for {most} images at a time"),
            |_| "close other programs, or raise the limit".to_string(),
        )?;
        let of = |values: &[f32]| values.iter().map(|&v| T::of(f64::from(v))).collect();
        Ok(Self {
            filters: filters
                .iter()
                .map(|filter| [of(&filter.weights), of(&filter.bias)])
                .collect(),
            slots: plan
                .slots
                .iter()
                .map(|&elements| vec![T::nan(); elements * most])
                .collect(),
            plan: plan.clone(),
            most,
        })
    }

    /// Runs all steps on `images`; the output lies in the last map's slot. `seen` is told of every step.
    fn steps(
        &mut self,
        images: Pixels<'_>,
        mut seen: impl FnMut(&Plan, usize, &[T]) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let n = images.count();
        ensure!(
            n <= self.most,
            "{n} images at a time, and at most {} were said",
            self.most
        );
        let plan = &self.plan;
        let image = plan.maps[0];
        let length = n * image.shape.len();
        resize::forward(images, &mut self.slots[image.slot][..length], image.shape);
        for (at, step) in plan.steps.iter().enumerate() {
            let (from, to) = (plan.maps[step.input], plan.maps[step.output]);
            // They lie in different slots: the input is read last after the output is there.
            let mut output = std::mem::take(&mut self.slots[to.slot]);
            let x = (&self.slots[from.slot][..n * from.shape.len()], from.shape);
            let whole = &mut output[..n * to.shape.len()];
            let y = (&mut *whole, to.shape, step.channel);
            match step.work {
                Work::Convolution(filter) => {
                    let [weights, bias] = &self.filters[filter];
                    conv_bias_relu::forward(&step.window, x, weights, bias, y);
                }
                Work::Pool(kind) => pool::forward(kind, &step.window, x, y),
            }
            let done = seen(plan, at, whole);
            self.slots[to.slot] = output;
            done?;
        }
        let (shape, slot) = (plan.output(), plan.maps[plan.output_map()].slot);
        let output = &self.slots[slot][..n * shape.len()];
        Ok(output.iter().map(|v| v.f64() as f32).collect())
    }
}

impl<T: Real> extractor::Extractor for Extractor<T> {
    fn run(&mut self, images: Pixels<'_>) -> Result<Vec<f32>> {
        self.steps(images, |_, _, _| Ok(()))
    }

    fn run_seen(&mut self, images: Pixels<'_>, seen: &mut Seen<'_>) -> Result<Vec<f32>> {
        self.steps(images, |plan, at, values| {
            let step = &plan.steps[at];
            let values: Vec<f32> = values.iter().map(|v| v.f64() as f32).collect();
            seen(step, plan.maps[step.output].shape, &values)
        })
    }
}
