//! Penalties on the gradient of D by its input, in the passes that [`super::gradient_penalty`] explains.

use anyhow::{Context, Result, ensure};

use super::gradient_penalty::{Penalty, squares};
use super::network::CpuNetwork;
use super::{Buffer, Progress, Real};
use crate::backend::{Loss, Slot};

impl<T: Real> CpuNetwork<T> {
    /// See [`Network::penalise`](crate::backend::Network::penalise).
    pub(super) fn add_penalty(
        &mut self,
        weights: &[f64],
        labels: Option<&[&Buffer<T>]>,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut penalty = self.penalty.take().context("no room for penalties")?;
        let done = self.penalise_with(&mut penalty, weights, labels, progress);
        self.penalty = Some(penalty);
        done
    }

    fn penalise_with(
        &mut self,
        penalty: &mut Penalty<T>,
        weights: &[f64],
        labels: Option<&[&Buffer<T>]>,
        progress: &mut Progress,
    ) -> Result<()> {
        ensure!(
            weights.len() <= self.inputs.len() && self.layers.iter().all(|l| l.norm.is_none()),
            "{} penalties of {} inputs, or batch norm",
            weights.len(),
            self.inputs.len()
        );
        let each = &self.inputs[..weights.len()];
        let n: usize = each.iter().sum();
        let width = self.architecture.output().len();
        let last = self.layers.len() - 1;
        let mut first = 0;
        for (index, (&weight, &n)) in weights.iter().zip(each).enumerate() {
            let rho = T::of((weight / n as f64).sqrt());
            let rows = penalty.outputs[last][first * width..(first + n) * width].chunks_mut(width);
            for (image, row) in rows.enumerate() {
                row.fill(rho);
                if let Some(labels) = labels {
                    let channels = labels[index].shape.c;
                    let end = (image + 1) * channels;
                    let y = &labels[index].data[end + 1 - width..end];
                    row[1..]
                        .iter_mut()
                        .zip(y)
                        .for_each(|(to, &y)| *to = rho * y);
                }
            }
            first += n;
        }
        for index in (0..=last).rev() {
            let (below, here) = penalty.outputs.split_at_mut(index);
            let layer = &self.layers[index];
            let gradient = &here[0][..n * layer.block.output.len()];
            let to = match below.last_mut() {
                Some(below) => below,
                None => &mut self.input_gradient.data,
            };
            let to = &mut to[..n * layer.block.input.len()];
            layer.input_backward(gradient, to);
            if index > 0 {
                self.layers[index - 1].derivative(to);
            }
        }
        let image = self.architecture.input().len();
        let mut first = 0;
        for (index, (&weight, &n)) in weights.iter().zip(each).enumerate() {
            let of = &self.input_gradient.data[first * image..(first + n) * image];
            if weight > 0.0 {
                progress.metrics().losses[Slot::RealPenalty as usize + index] = Loss {
                    loss: (squares(of) / weight) as f32,
                    ..Loss::UNSET
                };
            }
            first += n;
        }
        let [current, next] = &mut self.gradients;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let input = match index {
                0 => &self.input_gradient.data,
                _ => &*current,
            };
            let extra = &mut penalty.weight[..layer.geometry.weights()];
            layer.weight_of(n, input, &penalty.outputs[index], extra);
            layer.add_gradient(extra);
            if index < last {
                let to = &mut next[..n * layer.block.output.len()];
                layer.convolve_to(&input[..n * layer.block.input.len()], to);
                layer.derivative(to);
                std::mem::swap(current, next);
            }
        }
        Ok(())
    }
}
