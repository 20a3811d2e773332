//! One iteration of the GAN, in the order of the reference (pytorch/examples' DCGAN).

use anyhow::{Context, Result, ensure};

use super::update::Update;
use crate::backend::{
    Adam, Ahead, Augment, Backend, Balance, Batch, Counters, Criterion, GanLoss, Images,
    InstanceNoise, Metrics, Network, Progress, Schedule, Slot, State, Statistics, Targets, Use,
};
use crate::model::arch::Dimensions;
use crate::model::{Shape, StateDict};

/// Iterations of which the metrics are kept: [`Gan::send_metrics`] is due before there are more.
pub const KEPT_METRICS: u64 = 256;

/// Penalties on D's gradients by what it sees ([`Network::penalise`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// R1's γ, on real images; 0 for none.
    pub r1: f64,
    /// R2's, on generated images; 0 for none.
    pub r2: f64,
    /// Iterations from one that is penalised to the next, and what the weights are multiplied by to make up for it ("lazy
    /// regularization", Karras et al. 2020, arXiv 1912.04958, section 3.1); at least 1.
    pub every: u64,
}

impl Penalties {
    /// Whether there are any.
    pub fn is_any(&self) -> bool {
        self.r1 > 0.0 || self.r2 > 0.0
    }

    /// Whether there are any in `iteration`.
    pub fn in_iteration(&self, iteration: u64) -> bool {
        self.is_any() && iteration.is_multiple_of(self.every)
    }

    /// The weights of real and of generated images in an iteration that is penalised.
    pub fn weights(&self) -> [f64; 2] {
        [self.r1, self.r2].map(|gamma| gamma * self.every as f64)
    }
}

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
    /// What both networks are trained by.
    pub loss: GanLoss,
    /// What is changed at random of all that D sees.
    pub augment: Augment,
    /// What D's gradients cost it.
    pub penalties: Penalties,
    /// Noise on all that D sees, behind the changes.
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
            loss: GanLoss::Bce,
            augment: Augment {
                color: false,
                translation: false,
                cutout: false,
            },
            penalties: Penalties {
                r1: 0.0,
                r2: 0.0,
                every: 1,
            },
            noise: None,
            schedule: Schedule {
                decay_end: 0,
                ahead: Ahead::No,
                band: None,
            },
            l1: 100.0,
        }
    };

    /// Whether an iteration is one step of D and one of G at constant rates, on images without noise and targets of 0 and 1:
    /// what a record describes.
    pub fn is_recordable(&self) -> bool {
        let Self {
            discriminator,
            generator,
            ema,
            seed,
            l1,
            loss,
            augment,
            penalties,
            ..
        } = *self;
        *self
            == Self {
                discriminator,
                generator,
                ema,
                seed,
                l1,
                loss,
                augment,
                penalties,
                ..Self::REFERENCE
            }
    }
}

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

/// What is changed in an iteration of one step of each network, and by which part of the stream: `augment/d_real` and so on.
pub fn augmented(settings: &Settings) -> Vec<(&'static str, usize)> {
    let mut all = vec![
        ("augment/d_real", 0),
        ("augment/d_fake", 1),
        ("augment/g_fake", 2),
    ];
    if settings.loss.of_g().is_of_pairs() {
        all.push(("augment/g_real", 3));
    }
    all
}

/// What D is compiled for.
fn use_of_d(settings: &Settings) -> Use {
    match settings.penalties.is_any() {
        true => Use::Penalised,
        false => Use::Training,
    }
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
    shows: Shows<B>,
    /// Where there is a picture.
    pictures: Option<Pictures<B>>,
    /// Where D is to be examined: images that it is not trained on, and images that it is.
    examined: Option<[B::Buffer; 2]>,
    /// Their labels, where there are any.
    examined_labels: Option<[B::Buffer; 2]>,
    dimensions: Dimensions,
    settings: Settings,
    /// Of iterations without and with penalties.
    recordings: [B::Recording; 2],
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
        let changed = settings.augment.is_any();
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
            discriminator: backend.compile(&d, 2 * batch, use_of_d(settings))?,
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
            shows: Shows {
                noisy: pair(settings.noise.is_some())?,
                augmented: pair(changed)?,
                gradient: changed
                    .then(|| backend.buffer(batch, d.input()))
                    .transpose()?,
            },
            examined: pair(examined)?,
            examined_labels: (examined && dimensions.labels() > 0)
                .then(|| backend.buffers(batch, Shape::new(1, 1, dimensions.labels())))
                .transpose()?,
            dimensions: *dimensions,
            settings: *settings,
            recordings: Default::default(),
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
        let networks = backend.bytes(&g, batch, Use::Training)
            + backend.bytes(&d, 2 * batch, use_of_d(settings));
        let changed = u64::from(settings.augment.is_any());
        let pairs = u64::from(settings.noise.is_some()) + u64::from(examined) + changed;
        let buffers = backend.buffer_bytes(batch, z_shape(dimensions))
            + (1 + 2 * pairs + changed) * backend.buffer_bytes(batch, d.input());
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
            shows,
            pictures,
            settings,
            dimensions,
            recordings,
            iterations,
            ..
        } = self;
        let penalised = settings.penalties.in_iteration(*iterations);
        let recording = &mut recordings[usize::from(penalised)];
        backend.replay(recording, feed, *iterations, &mut |feed| {
            let mut update = Update {
                backend,
                g: &mut *generator,
                d: &mut *discriminator,
                real: &mut *real,
                z: &mut *z,
                shows: &mut *shows,
                pictures: pictures.as_mut(),
                settings: &*settings,
                dimensions: &*dimensions,
                penalised,
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
            shows: &mut self.shows,
            pictures: self.pictures.as_mut(),
            settings: &self.settings,
            dimensions: &self.dimensions,
            penalised: self.settings.penalties.in_iteration(self.iterations),
        };
        update.run(None, &mut self.progress)?;
        self.iterations += 1;
        Ok(())
    }

    /// Shows D a batch of images that it is not trained on, `held_out`, and one of those that it is trained on, `seen`,
    /// changed and with instance noise as all that it sees; its losses, binary cross entropy whatever it is trained by, go into the metrics of the iteration that comes next
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
            criterion: Criterion::Bce,
            values: &[1.0, 1.0],
            labels: labels.as_ref().map(|labels| &labels[..]),
        };
        let settings = &self.settings;
        let (channels, seed) = (self.dimensions.channels, settings.seed);
        // D is used to both, and at a loss without.
        let mut shown = [&*a, &*b];
        if let Some(augmented) = &mut self.shows.augmented {
            let stream = (seed, 2 * (d_steps + g_steps));
            let (augment, progress) = (&settings.augment, &self.progress);
            backend.augment(augment, channels, stream, progress, &shown, augmented)?;
            shown = augmented.each_ref();
        }
        if let (Some(noise), Some([noisy_a, noisy_b])) = (&settings.noise, &mut self.shows.noisy) {
            let part = |index: usize| (seed, 2 * d_steps + g_steps + index);
            backend.add_noise(noise, part(0), &self.progress, shown[0], noisy_a)?;
            backend.add_noise(noise, part(1), &self.progress, shown[1], noisy_b)?;
            shown = [&*noisy_a, &*noisy_b];
        }
        let slots = (&mut self.progress, Slot::HeldOut);
        let d = &mut self.discriminator;
        d.forward_with_loss(&shown, Statistics::BatchOnly, &targets, slots)
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
