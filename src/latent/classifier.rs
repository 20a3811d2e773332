//! A classifier of attributes or classes: what judges a generator's images.
//!
//! The discriminator's layers with one output a name ([`Dimensions::predictor`]). Of attributes each output is a logit
//! of its own (they are independent), of classes they are logits of a softmax.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backend::Use;
use crate::data;
use crate::data::labels::Kind;
use crate::hex::hex;
use crate::latent::generator::identity;
use crate::latent::networks::{Networks, Piece};
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::model::tensor_file::TensorFile;
use crate::text::{escaped, shown};

/// What is known of a classifier besides its weights; JSON in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// What the outputs are.
    pub kind: Kind,
    /// A name an output.
    pub names: Vec<String>,
    /// Pixels a side of the images that it takes.
    pub image_size: usize,
    /// Channels of the images.
    pub channels: usize,
    /// Channels of the layers next to the image.
    pub width: usize,
    /// Of held-out images, by output: the share that it tells rightly, the mean of those with and those without.
    pub accuracy: Vec<f32>,
    /// Of the images, by output: the share that has it.
    pub share: Vec<f32>,
    /// The kind of data set, as `--dataset` takes it.
    pub dataset: String,
    /// The data set, for people, as [`data_of`] has it.
    pub data: String,
}

/// The images of a data set, as [`Description::data`] names them: where they lie, or that they are drawn.
pub fn data_of(dataset: data::Kind, path: Option<&Path>) -> String {
    match path {
        Some(path) if !dataset.is_drawn() => {
            let absolute = path.canonicalize().or_else(|_| std::path::absolute(path));
            shown(absolute.as_deref().unwrap_or(path))
        }
        _ => "drawn".to_string(),
    }
}

/// Whether a data set of this kind is whatever its folder holds, rather than the same wherever it lies.
fn is_by_place(dataset: data::Kind) -> bool {
    use data::Kind::{Folder, Lsun, Parquet, Webdataset};
    matches!(dataset, Folder | Lsun | Parquet | Webdataset)
}

/// A classifier with its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// What is known of it.
    pub about: Description,
    /// Weights and buffers.
    pub dict: StateDict,
}

/// What is told below this balanced accuracy is not worth a direction: half is a coin.
pub const RELIABLE: f32 = 0.75;

const PREFIX: &str = "classifier/";
const ABOUT: &str = "classifier";

/// The JSON in its file.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    about: Description,
    /// [`Classifier::checksum`].
    sha256: String,
}

impl Description {
    /// The dimensions of which the classifier's layers follow.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            image_size: self.image_size,
            width: self.width,
            latent_dim: 1,
            channels: self.channels,
            condition: crate::model::arch::Condition::None,
            design: crate::model::arch::Design::DCGAN,
        }
    }

    /// Refuses to judge a generator of these dimensions with it whose data set, where that is known, is another: its
    /// kind, and where it lies.
    ///
    /// # Errors
    /// Where it is of images of another size or with other channels, or of another data set; the message says both.
    pub fn check_fits(
        &self,
        dimensions: &Dimensions,
        dataset: Option<(data::Kind, Option<&Path>)>,
    ) -> Result<()> {
        let (size, channels) = (dimensions.image_size, dimensions.channels);
        ensure!(
            (self.image_size, self.channels) == (size, channels),
            "the classifier takes images of {} px with {} channels, and the generator makes such of {size} px with \
             {channels}: train one for it with `dcgan-cuda latent directions train-classifier --checkpoint …`",
            self.image_size,
            self.channels
        );
        let Some((kind, path)) = dataset else {
            return Ok(());
        };
        // What is no longer there was perhaps moved.
        let there = path.is_some_and(Path::exists);
        let data = data_of(kind, path);
        ensure!(
            self.dataset == kind.to_string() && (!is_by_place(kind) || !there || data == self.data),
            "the classifier is of another data set: it was trained on {} ({}), and the generator on {kind} ({data}): \
             train one for it with `dcgan-cuda latent directions train-classifier --checkpoint …`",
            escaped(&self.dataset),
            escaped(&self.data)
        );
        Ok(())
    }

    /// Whether it tells output `index` well enough to go by ([`RELIABLE`]).
    pub fn is_reliable(&self, index: usize) -> bool {
        self.accuracy.get(index).is_some_and(|&a| a >= RELIABLE)
    }
}

impl Classifier {
    /// The classifier for at most `most` images at a time: images, f32 `[n][c][h][w]` in [−1, 1], to logits `[n][names]`.
    ///
    /// # Errors
    /// As [`Networks::piece`].
    pub fn piece<'a>(
        &self,
        networks: &'a dyn Networks,
        most: usize,
        usage: Use,
    ) -> Result<Box<dyn Piece + 'a>> {
        let architecture = self.about.dimensions().predictor(self.about.names.len());
        networks.piece(&architecture, &self.dict, most, usage)
    }

    /// SHA-256 of all that its file holds, hex.
    fn checksum(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(identity(&self.dict));
        hash.update(self.dict.batches_tracked.unwrap_or(0).to_le_bytes());
        hash.update(serde_json::to_string(&self.about)?);
        Ok(hex(&hash.finalize()))
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// Where it cannot be put into one.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut file = TensorFile::default();
        self.dict.add_to(PREFIX, &mut file);
        let kept = Kept {
            about: self.about.clone(),
            sha256: self.checksum()?,
        };
        let kept = serde_json::to_string(&kept)?;
        file.metadata.insert(ABOUT.to_string(), kept);
        file.to_bytes()
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// Where it cannot be read, or is no classifier or a damaged one.
    pub fn read(path: &Path) -> Result<Self> {
        let file = TensorFile::read(path)?;
        let no_classifier = || {
            format!(
                "{} is no classifier that can be used; make one with `dcgan-cuda latent directions train-classifier`",
                shown(path)
            )
        };
        let json = file.metadata.get(ABOUT).with_context(no_classifier)?;
        let Kept { about, sha256 } = serde_json::from_str(json).with_context(no_classifier)?;
        let n = about.names.len();
        ensure!(
            n > 0 && about.accuracy.len() == n && about.share.len() == n,
            no_classifier()
        );
        let dimensions = about.dimensions();
        dimensions.check().with_context(no_classifier)?;
        let dict = StateDict::take_from(&file, PREFIX);
        dict.check(&dimensions.predictor(n), true)
            .with_context(no_classifier)?;
        dict.check_values().with_context(no_classifier)?;
        let classifier = Self { about, dict };
        ensure!(
            classifier.checksum()? == sha256,
            "{}: its checksum does not match, so it was damaged",
            no_classifier()
        );
        Ok(classifier)
    }
}
