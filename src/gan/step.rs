//! One iteration of the GAN, in the order of the reference (pytorch/examples' DCGAN).

use anyhow::{Context, Result, ensure};

use crate::backend::{
    Adam, Ahead, Backend, Balance, Batch, Channels, Counters, Images, InstanceNoise, Metrics,
    Network, Progress, Schedule, Slot, State, Statistics, Targets, Upstream, Use, Want,
};
use crate::model::arch::Dimensions;
use crate::model::{Shape, StateDict};
use crate::random::Purpose;

/// Iterations of which the metrics are kept: [`Gan::send_metrics`] is due before there are more.
pub const KEPT_METRICS: u64 = 256;

/// How a [`Gan`] is trained, from its first iteration to the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The discriminator's optimiser.
    pub discriminator: Adam,
    /// The generator's optimiser.
    pub generator: Adam,
    /// Decay of the generator's moving average; 0 keeps none.
    pub ema: f64,
    /// Seed of the noise z, and of instance noise.
    pub seed: u64,
    /// Steps of the discriminator in an iteration, each on images and noise of its own; at least 1.
    pub d_steps: usize,
    /// Steps of the generator in an iteration, each on noise of its own but the first, whose noise is that of the last
    /// step of the discriminator; at least 1.
    pub g_steps: usize,
    /// What D is to say of real images: 1, or less to smooth labels one-sidedly (Salimans et al. 2016, arXiv 1606.03498,
    /// section 3.4).
    pub real_target: f32,
    /// Noise on all that D sees.
    pub noise: Option<InstanceNoise>,
    /// How the learning rates go.
    pub schedule: Schedule,
    /// Where there is a picture: what G's mean distance from the truth is multiplied by, λ of Isola et al. 2017.
    pub l1: f64,
}

impl Settings {
    /// The settings of the DCGAN paper (arXiv 1511.06434, section 4: learning rate 0.0002, β₁ 0.5) as pytorch/examples'
    /// `dcgan/main.py` has them, with `torch.optim.Adam`'s β₂ and ε. Neither keeps an average; its decay is that of
    /// progressive growing (arXiv 1710.10196).
    pub const REFERENCE: Self = {
        let adam = Adam {
            lr: 2e-4,
            beta1: 0.5,
            beta2: 0.999,
            eps: 1e-8,
        };
        Self {
            discriminator: adam,
            generator: adam,
            ema: 0.999,
            seed: 0,
            d_steps: 1,
            g_steps: 1,
            real_target: 1.0,
            noise: None,
            schedule: Schedule {
                decay_end: 0,
                ahead: Ahead::No,
                band: None,
            },
            l1: 100.0,
        }
    };

    /// Whether an iteration is that of the reference: only learning rates, Adam's settings, the average and the weight of
    /// the distance may differ.
    pub fn is_reference(&self) -> bool {
        let Self {
            discriminator,
            generator,
            ema,
            seed,
            l1,
            ..
        } = *self;
        *self
            == Self {
                discriminator,
                generator,
                ema,
                seed,
                l1,
                ..Self::REFERENCE
            }
    }
}

/// What lies between the networks where the condition is a picture. The batch of real images has the pictures behind
/// the images' channels.
struct Pictures<B: Backend> {
    /// What G sees: the picture, and z behind it.
    seen: B::Buffer,
    /// What G made, and the picture behind it.
    fake: B::Buffer,
    /// Gradient of G's output.
    gradient: B::Buffer,
}

/// Shape of a row of noise and labels.
fn z_shape(dimensions: &Dimensions) -> Shape {
    Shape::new(1, 1, (dimensions.latent_dim + dimensions.labels()).max(1))
}

/// Both networks and what lies between them.
pub struct Gan<B: Backend> {
    /// G: z, with the labels behind it, or a picture → images.
    pub generator: B::Network,
    /// D: images → logits. It takes two batches at once.
    pub discriminator: B::Network,
    /// The batch of real images of the last iteration, `[batch][h][w][c]` in [−1, 1], with their pictures in the last
    /// channels.
    pub real: B::Buffer,
    /// The noise of the last iteration, and the labels behind it, `[batch][1][1][latent_dim + labels]`; a
    /// number that nobody reads where there is neither.
    pub z: B::Buffer,
    /// Where training is; [`Gan::set_counters`] sets it.
    pub progress: B::Progress,
    /// The batches of the coming iterations.
    pub feed: B::Feed,
    /// Where the settings ask for instance noise: real and generated images with it.
    noisy: Option<[B::Buffer; 2]>,
    /// Where there is a picture.
    pictures: Option<Pictures<B>>,
    /// Where D is to be examined: images that it is not trained on, and images that it is.
    examined: Option<[B::Buffer; 2]>,
    /// Their labels, where there are any.
    examined_labels: Option<[B::Buffer; 2]>,
    dimensions: Dimensions,
    settings: Settings,
    recording: B::Recording,
    /// Iterations asked for.
    iterations: u64,
}

impl<B: Backend> Gan<B> {
    /// Networks for batches of `batch` images, with the initial values of the seed ([`StateDict::initial`]), that are
    /// trained as `settings` say, and room for the images of `slots` iterations that wait for their turn. `examined`:
    /// whether [`Gan::examine`] is going to be called.
    ///
    /// # Errors
    /// Where there is not enough memory, or the device fails.
    pub fn new(
        backend: &B,
        dimensions: &Dimensions,
        batch: usize,
        slots: usize,
        settings: &Settings,
        examined: bool,
    ) -> Result<Self> {
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        // Of two that go through D together, so that they need not be copied.
        let pair = |wanted: bool| -> Result<Option<[B::Buffer; 2]>> {
            wanted
                .then(|| backend.buffers(batch, d.input()))
                .transpose()
        };
        let [real, fake] = backend.buffers(batch, d.input())?;
        let mut generator = backend.compile(&g, batch, Use::Training)?;
        let pictures = match dimensions.picture() {
            0 => {
                generator.write_to(fake)?;
                None
            }
            _ => Some(Pictures {
                seen: backend.buffer(batch, g.input())?,
                fake,
                gradient: backend.buffer(batch, g.output())?,
            }),
        };
        let mut gan = Self {
            generator,
            // Real and fake go through the discriminator together.
            discriminator: backend.compile(&d, 2 * batch, Use::Training)?,
            real,
            z: backend.buffer(batch, z_shape(dimensions))?,
            pictures,
            progress: backend.progress(KEPT_METRICS as usize)?,
            feed: backend.feed(
                settings.d_steps * batch,
                d.input(),
                dimensions.labels(),
                slots,
            )?,
            noisy: pair(settings.noise.is_some())?,
            examined: pair(examined)?,
            examined_labels: (examined && dimensions.labels() > 0)
                .then(|| backend.buffers(batch, Shape::new(1, 1, dimensions.labels())))
                .transpose()?,
            dimensions: *dimensions,
            settings: *settings,
            recording: B::Recording::default(),
            iterations: 0,
        };
        let initial = StateDict::initial(&g, settings.seed);
        gan.generator.write(State::Parameters, &initial)?;
        gan.generator.write(State::Average, &initial)?;
        let initial = StateDict::initial(&d, settings.seed);
        gan.discriminator.write(State::Parameters, &initial)?;
        if !settings.schedule.is_constant() {
            let mut counters = gan.progress.read()?;
            counters.balance = Balance::of(&settings.schedule);
            gan.progress.write(&counters)?;
        }
        Ok(gan)
    }

    /// Bytes of the device that [`Gan::new`] takes with the same arguments, without making it.
    pub fn bytes(
        backend: &B,
        dimensions: &Dimensions,
        batch: usize,
        slots: usize,
        settings: &Settings,
        examined: bool,
    ) -> u64 {
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let networks =
            backend.bytes(&g, batch, Use::Training) + backend.bytes(&d, 2 * batch, Use::Training);
        let pairs = u64::from(settings.noise.is_some()) + u64::from(examined);
        let buffers = backend.buffer_bytes(batch, z_shape(dimensions))
            + (1 + 2 * pairs) * backend.buffer_bytes(batch, d.input());
        let buffers = match dimensions.picture() {
            0 => buffers,
            _ => {
                let fake = backend.buffer_bytes(batch, d.input());
                buffers
                    + fake
                    + [g.input(), g.output()]
                        .map(|s| backend.buffer_bytes(batch, s))
                        .iter()
                        .sum::<u64>()
            }
        };
        let labels = dimensions.labels();
        let waiting = slots * settings.d_steps * batch * (d.input().len() + 1 + labels);
        let buffers = match examined && labels > 0 {
            true => buffers + 2 * backend.buffer_bytes(batch, Shape::new(1, 1, labels)),
            false => buffers,
        };
        networks + buffers + waiting as u64
    }

    /// How the networks are trained.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The next iteration, on the images last sent into its slot of [`Gan::feed`] and on fresh noise.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn iteration(&mut self, backend: &B) -> Result<()> {
        let Self {
            generator,
            discriminator,
            real,
            z,
            progress,
            feed,
            noisy,
            pictures,
            settings,
            dimensions,
            recording,
            iterations,
            ..
        } = self;
        backend.replay(recording, feed, *iterations, &mut |feed| {
            let mut update = Update {
                backend,
                g: &mut *generator,
                d: &mut *discriminator,
                real: &mut *real,
                z: &mut *z,
                noisy: noisy.as_mut(),
                pictures: pictures.as_mut(),
                settings: &*settings,
                dimensions: &*dimensions,
            };
            update.run(Some(feed), progress)
        })?;
        *iterations += 1;
        Ok(())
    }

    /// The next iteration, on what is in [`Gan::real`] and [`Gan::z`].
    ///
    /// # Errors
    /// Where the settings have several steps an iteration, or the device fails.
    pub fn iteration_on(&mut self, backend: &B) -> Result<()> {
        ensure!(
            (self.settings.d_steps, self.settings.g_steps) == (1, 1),
            "one batch is given, and an iteration takes several"
        );
        let mut update = Update {
            backend,
            g: &mut self.generator,
            d: &mut self.discriminator,
            real: &mut self.real,
            z: &mut self.z,
            noisy: self.noisy.as_mut(),
            pictures: self.pictures.as_mut(),
            settings: &self.settings,
            dimensions: &self.dimensions,
        };
        update.run(None, &mut self.progress)?;
        self.iterations += 1;
        Ok(())
    }

    /// Shows D a batch of images that it is not trained on, `held_out`, and one of those that it is trained on, `seen`,
    /// with instance noise where there is any; its losses go into the metrics of the iteration that comes next
    /// ([`Slot::HeldOut`], [`Slot::Seen`]). Nothing of training changes. Waits on some devices.
    ///
    /// # Errors
    /// Where this was not announced to [`Gan::new`], these are no batches, or the device fails.
    pub fn examine(&mut self, backend: &B, held_out: &Shown, seen: &Shown) -> Result<()> {
        let Settings {
            d_steps, g_steps, ..
        } = self.settings;
        let [a, b] = self.examined.as_mut().context("no room to examine D")?;
        backend.write(&held_out.images, a)?;
        backend.write(&seen.images, b)?;
        let labels = match &mut self.examined_labels {
            Some([of_a, of_b]) => {
                backend.write(&held_out.labels, of_a)?;
                backend.write(&seen.labels, of_b)?;
                Some([&*of_a, &*of_b])
            }
            None => None,
        };
        let targets = Targets {
            values: &[1.0, 1.0],
            labels: labels.as_ref().map(|labels| &labels[..]),
        };
        let d = &mut self.discriminator;
        match (&self.settings.noise, &mut self.noisy) {
            // D is used to it, and at a loss without.
            (Some(noise), Some([noisy_a, noisy_b])) => {
                let part = |index: usize| (self.settings.seed, 2 * d_steps + g_steps + index);
                backend.add_noise(noise, part(0), &self.progress, a, noisy_a)?;
                backend.add_noise(noise, part(1), &self.progress, b, noisy_b)?;
                let shown = [&*noisy_a, &*noisy_b];
                let slots = (&mut self.progress, Slot::HeldOut);
                d.forward_with_loss(&shown, Statistics::BatchOnly, &targets, slots)
            }
            _ => {
                let slots = (&mut self.progress, Slot::HeldOut);
                d.forward_with_loss(&[&*a, &*b], Statistics::BatchOnly, &targets, slots)
            }
        }
    }

    /// Sets where training is; it goes on from there.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn set_counters(&mut self, counters: &Counters) -> Result<()> {
        self.iterations = counters.iteration;
        self.progress.write(counters)
    }

    /// Asks for the metrics of the iterations from `first` to the last asked for, at most [`KEPT_METRICS`];
    /// [`Progress::take_metrics`] hands them out.
    ///
    /// # Errors
    /// Where these are more iterations, or the device fails.
    pub fn send_metrics(&mut self, first: u64) -> Result<()> {
        self.progress.send_metrics(first..self.iterations)
    }

    /// Metrics of the last iteration. Waits for it.
    ///
    /// # Errors
    /// Where there was no iteration yet, or the device fails.
    pub fn last_metrics(&mut self) -> Result<Metrics> {
        self.send_metrics(self.iterations.saturating_sub(1))?;
        let all = self.progress.take_metrics(true)?.unwrap_or_default();
        all.last().copied().context("there was no iteration yet")
    }
}

/// A batch of images to examine D by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// f32 NCHW in [−1, 1].
    pub images: Vec<f32>,
    /// `[n][labels]`.
    pub labels: Vec<f32>,
}

/// Writes a batch for measurements and self-tests, which need any images; none is mirrored, and of the labels one in three
/// holds.
pub fn fill_pixels(batch: Batch<'_>) {
    match batch.images {
        Images::Pixels(pixels) => {
            for (i, pixel) in pixels.iter_mut().enumerate() {
                *pixel = (i * 7919 % 251) as u8;
            }
        }
        Images::Indices(indices) => indices.fill(0),
    }
    batch.flips.fill(0);
    for (i, label) in batch.labels.iter_mut().enumerate() {
        *label = i8::from(i % 3 == 0);
    }
}

/// What an iteration works on.
struct Update<'a, B: Backend> {
    backend: &'a B,
    g: &'a mut B::Network,
    d: &'a mut B::Network,
    real: &'a mut B::Buffer,
    z: &'a mut B::Buffer,
    noisy: Option<&'a mut [B::Buffer; 2]>,
    pictures: Option<&'a mut Pictures<B>>,
    settings: &'a Settings,
    dimensions: &'a Dimensions,
}

impl<B: Backend> Update<'_, B> {
    /// D on real and on fake images, one Adam step of D; then G through the new D, one Adam step of G; each as often as
    /// the settings say. On what `feed` has, or on what is there.
    fn run(&mut self, feed: Option<&B::Feed>, progress: &mut B::Progress) -> Result<()> {
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
            self.generate()?;
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
                self.generate()?;
            }
            self.step_of_g(step, progress)?;
        }
        Ok(())
    }

    /// The stream of noise number `part` of an iteration.
    fn latent(&self, part: usize) -> (u64, Purpose, usize) {
        (self.settings.seed, Purpose::Latent, part)
    }

    /// G's images: of z, or of the pictures of the batch.
    fn generate(&mut self) -> Result<()> {
        let Some(pictures) = &mut self.pictures else {
            return self.g.forward(&[&*self.z], Statistics::Batch);
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
        self.g.forward(&[&*seen], Statistics::Batch)?;
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
            noisy,
            pictures,
            settings,
            dimensions,
        } = self;
        let _range = nvtx::range!("D step");
        // The images of this batch and those that are made of its labels.
        let labels = [&**z, &**z];
        let targets = Targets {
            values: &[settings.real_target, 0.0],
            labels: (dimensions.labels() > 0).then_some(&labels[..]),
        };
        let fake = pictures.as_ref().map_or(g.output(), |p| &p.fake);
        let shown = match (&settings.noise, noisy) {
            (Some(noise), Some([noisy_real, noisy_fake])) => {
                let part = |index: usize| (settings.seed, 2 * step + index);
                backend.add_noise(noise, part(0), progress, real, noisy_real)?;
                backend.add_noise(noise, part(1), progress, fake, noisy_fake)?;
                [&*noisy_real, &*noisy_fake]
            }
            _ => [&**real, fake],
        };
        let slots = (&mut *progress, Slot::Real);
        d.forward_with_loss(&shown, Statistics::Batch, &targets, slots)?;
        if !settings.schedule.is_constant() {
            progress.set_rates(&settings.schedule)?;
        }
        d.backward(Upstream::Loss, Want::Weights)?;
        d.update(&settings.discriminator, 0.0, false, progress)
    }

    fn step_of_g(&mut self, step: usize, progress: &mut B::Progress) -> Result<()> {
        let Self {
            backend,
            g,
            d,
            real,
            z,
            noisy,
            pictures,
            settings,
            dimensions,
        } = self;
        let _range = nvtx::range!("G step");
        let labels = [&**z];
        let targets = Targets {
            values: &[1.0],
            labels: (dimensions.labels() > 0).then_some(&labels[..]),
        };
        // What D sees is what G has put out, where there is no noise on it and no picture beside it: then D's backward
        // pass may as well go through G's last activation.
        let through = settings.noise.is_none() && pictures.is_none();
        let fake = pictures.as_ref().map_or(g.output(), |p| &p.fake);
        let shown = match (&settings.noise, noisy) {
            (Some(noise), Some([_, noisy_fake])) => {
                let part = (settings.seed, 2 * settings.d_steps + step);
                backend.add_noise(noise, part, progress, fake, noisy_fake)?;
                &*noisy_fake
            }
            _ => fake,
        };
        let slots = (&mut *progress, Slot::Generator);
        d.forward_with_loss(&[shown], Statistics::Batch, &targets, slots)?;
        if through {
            d.backward(Upstream::Loss, Want::BehindInput(g.last_activation()))?;
            g.backward(Upstream::Sum(d.input_gradient()), Want::Weights)?;
        } else if let Some(pictures) = pictures {
            d.backward(Upstream::Loss, Want::Input)?;
            let others = [&**real, d.input_gradient()];
            let gradient = &mut pictures.gradient;
            backend.l1_loss(settings.l1, g.output(), others, progress, gradient)?;
            g.backward(Upstream::Output(gradient), Want::Weights)?;
        } else {
            d.backward(Upstream::Loss, Want::Input)?;
            g.backward(Upstream::Output(d.input_gradient()), Want::Weights)?;
        }
        let last = step + 1 == settings.g_steps;
        g.update(&settings.generator, settings.ema, last, progress)
    }
}
