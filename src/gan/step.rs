//! One iteration of the GAN, in the order of the reference (pytorch/examples' DCGAN).

use anyhow::{Context, Result, ensure};

use super::update::{Pictures, Shows, Update};
use crate::backend::{
    Backend, Balance, Batch, Counters, Images, Metrics, Network, Progress, State, Use,
};
use crate::model::arch::Dimensions;
use crate::model::{Shape, StateDict};

pub use super::settings::{Penalties, Settings};

/// Iterations of which the metrics are kept: [`Gan::send_metrics`] is due before there are more.
pub const KEPT_METRICS: u64 = 256;

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
    pub(super) examined: Option<[B::Buffer; 2]>,
    /// Their labels, where there are any.
    pub(super) examined_labels: Option<[B::Buffer; 2]>,
    pub(super) dimensions: Dimensions,
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
        let (mut update, progress) = self.update(backend);
        update.run(None, progress)?;
        self.iterations += 1;
        Ok(())
    }

    /// What an iteration works on, and where it is.
    pub(super) fn update<'a>(&'a mut self, backend: &'a B) -> (Update<'a, B>, &'a mut B::Progress) {
        let update = Update {
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
        (update, &mut self.progress)
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
