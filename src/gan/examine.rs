//! Looks at D: what it makes of images that it is not trained on.

use anyhow::{Context, Result};

use super::step::{Gan, Settings};
use super::update::How;
use crate::backend::{Backend, Criterion, GanLoss, Network, Slot, Statistics, Targets};
use crate::random::Purpose;

/// A batch of images to examine D by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// f32 NCHW in [−1, 1].
    pub images: Vec<f32>,
    /// `[n][labels]`.
    pub labels: Vec<f32>,
}

impl<B: Backend> Gan<B> {
    /// Shows D a batch of images that it is not trained on, `held_out`, and one of those that it is trained on, `seen`,
    /// changed and with instance noise as all that it sees; its losses go into the metrics of the iteration that comes next
    /// ([`Slot::HeldOut`], [`Slot::Seen`]): binary cross entropy, or where D is trained on pairs that of pairs with images
    /// generated for it. Nothing of training changes. Waits on some devices.
    ///
    /// # Errors
    /// Where this was not announced to [`Gan::new`], these are no batches, or the device fails.
    pub fn examine(&mut self, backend: &B, held_out: &Shown, seen: &Shown) -> Result<()> {
        let mut images = self.examined.take().context("no room to examine D")?;
        let mut labels = self.examined_labels.take();
        let done = self.examine_with(backend, &mut images, labels.as_mut(), [held_out, seen]);
        (self.examined, self.examined_labels) = (Some(images), labels);
        done
    }

    fn examine_with(
        &mut self,
        backend: &B,
        images: &mut [B::Buffer; 2],
        labels: Option<&mut [B::Buffer; 2]>,
        shown: [&Shown; 2],
    ) -> Result<()> {
        for (image, shown) in images.iter_mut().zip(shown) {
            backend.write(&shown.images, image)?;
        }
        let labels = match labels {
            Some(labels) => {
                for (label, shown) in labels.iter_mut().zip(shown) {
                    backend.write(&shown.labels, label)?;
                }
                Some(&*labels)
            }
            None => None,
        };
        if self.settings().loss == GanLoss::Relativistic {
            for (index, slot) in [Slot::HeldOut, Slot::Seen].into_iter().enumerate() {
                self.examine_pairs(backend, index, &mut images[index], (shown[index], slot))?;
            }
            return Ok(());
        }
        let labels = labels.map(|labels| labels.each_ref());
        let targets = Targets {
            criterion: Criterion::Bce,
            values: &[1.0, 1.0],
            labels: labels.as_ref().map(|labels| &labels[..]),
        };
        let (update, progress) = self.update(backend);
        let how = How::of(update.settings, update.dimensions, 0);
        let mut shown = images.each_ref();
        update.shows.change(backend, &how, progress, &mut shown)?;
        let slots = (progress, Slot::HeldOut);
        let d = update.d;
        d.forward_with_loss(&shown, Statistics::BatchOnly, &targets, slots)
    }

    /// Of batch number `index`, `images`, each against one that is generated of fresh noise, with its labels or its picture.
    fn examine_pairs(
        &mut self,
        backend: &B,
        index: usize,
        images: &mut B::Buffer,
        (shown, slot): (&Shown, Slot),
    ) -> Result<()> {
        let (latent_dim, labels) = (self.dimensions.latent_dim, self.dimensions.labels());
        let Settings {
            seed,
            d_steps,
            g_steps,
            ..
        } = *self.settings();
        if latent_dim + labels > 0 {
            let input = self.dimensions.discriminator().input();
            let n = shown.images.len() / input.len();
            let mut rows = vec![0.0; n * (latent_dim + labels)];
            if labels > 0 {
                let of = shown.labels.chunks_exact(labels);
                for (row, y) in rows.chunks_exact_mut(latent_dim + labels).zip(of) {
                    row[latent_dim..].copy_from_slice(y);
                }
            }
            backend.write(&rows, &mut self.z)?;
            let stream = (seed, Purpose::Latent, d_steps + g_steps + index);
            let noise = (&mut self.z, latent_dim);
            backend.draw_latent(stream, &self.progress, noise)?;
        }
        // The pictures lie behind the images that D is shown.
        std::mem::swap(&mut self.real, images);
        let done = self.update(backend).0.generate(Statistics::BatchOnly);
        std::mem::swap(&mut self.real, images);
        done?;
        let (update, progress) = self.update(backend);
        let how = How::of(update.settings, update.dimensions, index);
        let labels = [&*update.z, &*update.z];
        let targets = Targets {
            criterion: Criterion::Relativistic,
            values: &[1.0, 0.0],
            labels: (update.dimensions.labels() > 0).then_some(&labels[..]),
        };
        let fake = update.pictures.map_or(update.g.output(), |p| &p.fake);
        let mut shown = [&*images, fake];
        update.shows.change(backend, &how, progress, &mut shown)?;
        let d = update.d;
        d.forward_with_loss(&shown, Statistics::BatchOnly, &targets, (progress, slot))
    }
}
