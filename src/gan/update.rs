//! What an iteration does, once: steps of D and of G.

use anyhow::Result;

use super::settings::Settings;
use crate::backend::{
    Backend, Channels, Network, NoiseOf, Progress, Slot, Statistics, Targets, Upstream, Want,
};
use crate::model::arch::Dimensions;
use crate::random::Purpose;

/// What lies between the networks where the condition is a picture. The batch of real images has the pictures behind
/// the images' channels.
pub(super) struct Pictures<B: Backend> {
    /// What G sees: the picture, and z behind it.
    pub seen: B::Buffer,
    /// What G made, and the picture behind it.
    pub fake: B::Buffer,
    /// Gradient of G's output.
    pub gradient: B::Buffer,
}

/// What D sees instead, where something is changed of it.
pub(super) struct Shows<B: Backend> {
    /// Where there is instance noise: two batches with it.
    pub noisy: Option<[B::Buffer; 2]>,
    /// Where there are changes: two batches with them.
    pub augmented: Option<[B::Buffer; 2]>,
    /// Likewise: the gradient of what G made, or of that and the picture.
    pub gradient: Option<B::Buffer>,
}

/// What an iteration works on.
pub(super) struct Update<'a, B: Backend> {
    pub backend: &'a B,
    pub g: &'a mut B::Network,
    pub d: &'a mut B::Network,
    pub real: &'a mut B::Buffer,
    pub z: &'a mut B::Buffer,
    pub shows: &'a mut Shows<B>,
    pub pictures: Option<&'a mut Pictures<B>>,
    pub settings: &'a Settings,
    pub dimensions: &'a Dimensions,
    /// Whether D's gradients cost it something this time.
    pub penalised: bool,
}

impl<B: Backend> Update<'_, B> {
    /// D on real and on fake images, one Adam step of D; then G through the new D, one Adam step of G; each as often as
    /// the settings say. On what `feed` has, or on what is there.
    pub fn run(&mut self, feed: Option<&B::Feed>, progress: &mut B::Progress) -> Result<()> {
        let Settings {
            d_steps, g_steps, ..
        } = *self.settings;
        let noisy = self.dimensions.latent_dim + self.dimensions.labels() > 0;
        for step in 0..d_steps {
            if let Some(feed) = feed {
                let noise = (self.latent(step), &mut *self.z);
                let (backend, real) = (self.backend, &mut *self.real);
                backend.load_batch(feed, progress, step, real, noisy.then_some(noise))?;
            }
            self.generate(Statistics::Batch)?;
            self.step_of_d(step, progress)?;
        }
        for step in 0..g_steps {
            // The first one's images are those of the last step of D.
            if step > 0 {
                if noisy {
                    let stream = self.latent(d_steps + step - 1);
                    let noise = (&mut *self.z, self.dimensions.latent_dim);
                    self.backend.draw_latent(stream, progress, noise)?;
                }
                self.generate(Statistics::Batch)?;
            }
            self.step_of_g(step, progress)?;
        }
        Ok(())
    }

    /// The stream of noise number `part` of an iteration.
    fn latent(&self, part: usize) -> NoiseOf {
        (self.settings.seed, Purpose::Latent, part)
    }

    /// G's images: of z, or of the pictures of the batch.
    pub fn generate(&mut self, statistics: Statistics) -> Result<()> {
        let Some(pictures) = &mut self.pictures else {
            return self.g.forward(&[&*self.z], statistics);
        };
        let (image, latent_dim) = (self.dimensions.channels, self.dimensions.latent_dim);
        let picture = Channels {
            maps: &*self.real,
            range: image..image + self.dimensions.picture(),
        };
        let z = (latent_dim > 0).then_some(Channels {
            maps: &*self.z,
            range: 0..latent_dim,
        });
        let Pictures { seen, fake, .. } = &mut **pictures;
        self.backend.concatenate(&picture, z.as_ref(), seen)?;
        self.g.forward(&[&*seen], statistics)?;
        let made = Channels {
            maps: self.g.output(),
            range: 0..image,
        };
        self.backend.concatenate(&made, Some(&picture), fake)
    }

    fn step_of_d(&mut self, step: usize, progress: &mut B::Progress) -> Result<()> {
        let Self {
            backend,
            g,
            d,
            real,
            z,
            shows,
            pictures,
            settings,
            dimensions,
            penalised,
        } = self;
        let _range = nvtx::range!("D step");
        // The images of this batch and those that are made of its labels.
        let labels = [&**z, &**z];
        let labels = (dimensions.labels() > 0).then_some(&labels[..]);
        let targets = Targets {
            criterion: settings.loss.of_d(),
            values: &[settings.real_target, 0.0],
            labels,
        };
        let fake = pictures.as_ref().map_or(g.output(), |p| &p.fake);
        let how = How {
            settings,
            channels: dimensions.channels,
            change: 2 * step,
            noise: [2 * step, 2 * step + 1],
        };
        let mut shown = [&**real, fake];
        shows.change(*backend, &how, progress, &mut shown)?;
        let slots = (&mut *progress, Slot::Real);
        d.forward_with_loss(&shown, Statistics::Batch, &targets, slots)?;
        if !settings.schedule.is_constant() {
            progress.set_rates(&settings.schedule)?;
        }
        d.backward(Upstream::Loss, Want::Weights)?;
        if *penalised {
            let weights = settings.penalties.weights();
            let inputs = if weights[1] > 0.0 { 2 } else { 1 };
            let labels = labels.map(|labels| &labels[..inputs]);
            d.penalise(&weights[..inputs], labels, progress)?;
        }
        d.update(&settings.discriminator, 0.0, false, progress)
    }

    fn step_of_g(&mut self, step: usize, progress: &mut B::Progress) -> Result<()> {
        let Self {
            backend,
            g,
            d,
            real,
            z,
            shows,
            pictures,
            settings,
            dimensions,
            ..
        } = self;
        let Settings {
            d_steps, g_steps, ..
        } = **settings;
        let _range = nvtx::range!("G step");
        let criterion = settings.loss.of_g();
        // What is compared with the real ones is seen beside them.
        let inputs = if criterion.is_of_pairs() { 2 } else { 1 };
        let labels = [&**z, &**z];
        let targets = Targets {
            criterion,
            values: &[1.0, 0.0][..inputs],
            labels: (dimensions.labels() > 0).then_some(&labels[..inputs]),
        };
        // What D sees is what G has put out, where nothing is changed of it and there is no picture beside it: then D's
        // backward pass may as well go through G's last activation.
        let through = shows.is_nothing() && pictures.is_none();
        let fake = pictures.as_ref().map_or(g.output(), |p| &p.fake);
        let change = 2 * d_steps + 2 * step;
        let how = How {
            settings,
            channels: dimensions.channels,
            change,
            // Behind D's examination, that of the real ones.
            noise: [2 * d_steps + step, 2 * d_steps + g_steps + 4 + step],
        };
        let mut shown = [fake, &**real];
        let shown = &mut shown[..inputs];
        shows.change(*backend, &how, progress, shown)?;
        let slots = (&mut *progress, Slot::Generator);
        d.forward_with_loss(shown, Statistics::Batch, &targets, slots)?;
        if through {
            d.backward(Upstream::FirstLoss, Want::BehindInput(g.last_activation()))?;
            g.backward(Upstream::Sum(d.input_gradient()), Want::Weights)?;
        } else {
            d.backward(Upstream::FirstLoss, Want::Input)?;
            let mut back = d.input_gradient();
            if let Some(gradient) = &mut shows.gradient {
                let (augment, channels) = (&settings.augment, dimensions.channels);
                let stream = (settings.seed, change);
                backend.augment_backward(augment, channels, stream, progress, back, gradient)?;
                back = gradient;
            }
            match pictures {
                Some(pictures) => {
                    let others = [&**real, back];
                    let gradient = &mut pictures.gradient;
                    backend.l1_loss(settings.l1, g.output(), others, progress, gradient)?;
                    g.backward(Upstream::Output(gradient), Want::Weights)?;
                }
                None => g.backward(Upstream::Output(back), Want::Weights)?,
            }
        }
        let last = step + 1 == g_steps;
        g.update(&settings.generator, settings.ema, last, progress)
    }
}

/// How what D sees is changed.
pub(super) struct How<'a> {
    pub settings: &'a Settings,
    /// Those of images.
    pub channels: usize,
    /// The part of the iteration's stream of changes that is the first batch's; the other's comes behind it.
    pub change: usize,
    /// Those of its noise.
    pub noise: [usize; 2],
}

impl<'a> How<'a> {
    /// Of D's examination, or of number `index` of two.
    pub fn of(settings: &'a Settings, dimensions: &Dimensions, index: usize) -> Self {
        let Settings {
            d_steps, g_steps, ..
        } = *settings;
        let noise = 2 * d_steps + g_steps + 2 * index;
        Self {
            settings,
            channels: dimensions.channels,
            change: 2 * (d_steps + g_steps + index),
            noise: [noise, noise + 1],
        }
    }
}

impl<B: Backend> Shows<B> {
    /// Whether D sees images as they are.
    fn is_nothing(&self) -> bool {
        self.noisy.is_none() && self.augmented.is_none()
    }

    /// Takes what D sees of them for the images `shown`, one or two batches: changed, then with noise.
    pub fn change<'a>(
        &'a mut self,
        backend: &B,
        how: &How<'_>,
        progress: &B::Progress,
        shown: &mut [&'a B::Buffer],
    ) -> Result<()> {
        let (settings, batches) = (how.settings, shown.len());
        if let Some(augmented) = &mut self.augmented {
            let to = &mut augmented[..batches];
            let stream = (settings.seed, how.change);
            let (augment, channels) = (&settings.augment, how.channels);
            backend.augment(augment, channels, stream, progress, shown, to)?;
            for (shown, augmented) in shown.iter_mut().zip(augmented.iter()) {
                *shown = augmented;
            }
        }
        if let (Some(noise), Some(noisy)) = (&settings.noise, &mut self.noisy) {
            // One that is alone lies where the generated images do.
            let at = noisy.len() - batches;
            let all = shown.iter_mut().zip(&mut noisy[at..]).zip(how.noise);
            for ((shown, noisy), part) in all {
                let stream = (settings.seed, part);
                backend.add_noise(noise, stream, progress, shown, noisy)?;
                *shown = noisy;
            }
        }
        Ok(())
    }
}
