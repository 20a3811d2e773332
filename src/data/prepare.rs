//! Makes packs, once: finds the pack of a source, or decodes the source into one. Processes that want the same pack
//! wait for the one that makes it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::data::contents::contents_of;
use crate::data::dataset::{LoadOptions, decode_in_order};
use crate::data::pack::{self, BLOCK, Metadata, PREPROCESSING, Pack, Recipe, Unusable, Writer};
use crate::data::skipped::check_skipped;
use crate::data::{OpenOptions, PictureCondition, Source, edges};
use crate::files;
use crate::hex::hex;
use crate::memory;
use crate::text::shown;

/// How often a process that waits for another looks again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where a pack is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file of this program's own in the cache folder: what cannot be used there is made again.
    Cache(PathBuf),
    /// A file that somebody named: replaced only by a newer pack of the same images.
    Named(PathBuf),
}

impl Place {
    /// `named`, or where the cache of this user has the pack of `recipe`.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn of(recipe: &Recipe, named: Option<&Path>) -> Result<Self> {
        if let Some(path) = named {
            return Ok(Self::Named(path.to_owned()));
        }
        let folder = files::cache_folder().context(
            "there is no folder for packs of decoded images, since neither XDG_CACHE_HOME nor HOME is set: set one, or \
             name a file with --pack",
        )?;
        let key = hex(&Sha256::digest(serde_json::to_vec(recipe)?)[..8]);
        let name = format!("{}-{}px-{key}.pack", recipe.dataset, recipe.size);
        Ok(Self::Cache(folder.join("packs").join(name)))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Cache(path) | Self::Named(path) => path,
        }
    }
}

impl Recipe {
    /// The recipe of the images that [`open`](crate::data::open) finds for `options`, at `size`×`size` px with that
    /// many channels.
    pub fn of(options: &OpenOptions, size: usize, channels: usize) -> Self {
        let drawn = options.kind.is_drawn();
        Self {
            dataset: options.kind.to_string(),
            data: options.path.as_deref().filter(|_| !drawn).map(absolute),
            split: options.split,
            crop: options.crop,
            drawn: drawn.then_some((options.seed, options.count as u64)),
            size,
            channels,
            choice: pack::Choice {
                image_key: options.image_key.clone(),
                image_column: options.image_column.clone(),
                allow_missing: options.allow_missing,
            },
            condition: None,
        }
    }

    /// The recipe of the images of `source`, which [`open`](crate::data::open) found for `options`, at `size`×`size` px:
    /// of pairs where they are paired.
    pub fn of_source(options: &OpenOptions, size: usize, source: &dyn Source) -> Self {
        let condition = options.condition.as_ref();
        Self {
            condition: condition.map(|condition| pack::Condition {
                channels: source.condition_channels(),
                of: match condition {
                    PictureCondition::Edges => pack::Pictures::Edges(edges::VERSION),
                    PictureCondition::Folder(path) => pack::Pictures::Folder(absolute(path)),
                },
            }),
            ..Self::of(options, size, source.channels())
        }
    }
}

/// A path as it is from everywhere, for people.
fn absolute(path: &Path) -> String {
    let found = path.canonicalize().or_else(|_| std::path::absolute(path));
    shown(found.as_deref().unwrap_or(path))
}

/// What is said while a pack is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Why it takes longer.
    Delay(String),
    /// What a person should know even where nothing else is to be said.
    Warning(String),
}

/// A pack that is wanted.
pub struct Request<'a> {
    /// Where the images come from.
    pub source: &'a dyn Source,
    /// What the pack is to hold.
    pub recipe: Recipe,
    /// Where the pack is to be.
    pub place: Place,
    /// How the images are decoded; `size` and `crop` are those of the recipe.
    pub options: LoadOptions<'a>,
    /// Called with what is to be said meanwhile.
    pub notice: &'a (dyn Fn(Notice) + Sync),
}

/// A pack that was verified.
#[derive(Debug)]
pub struct Prepared {
    /// The pack.
    pub pack: Pack,
    /// Whether it was made now.
    pub made: bool,
}

/// The source as it is now.
struct Now {
    /// [`pack::source_fingerprint`].
    fingerprint: [u8; 32],
    /// Digest of its contents, once it was needed: all originals are read for it.
    contents: OnceLock<Option<String>>,
}

/// What is to be done about the file that is there.
enum Verdict {
    Use(Box<Pack>),
    /// Make it, and say why where one is there.
    Make(Option<Notice>),
}

impl Request<'_> {
    /// The pack, verified: the one that is there where it is whole and of these images as they are now, else a new one,
    /// which appears under its name when it is whole. Where another process makes it, waits for that.
    ///
    /// # Errors
    /// When more images than `max_bad` allows cannot be used or none can; when the pack cannot be written; when a named
    /// file is something else, of other images, or damaged; when `stop` turned true ("stopped").
    pub fn open_or_make(&self) -> Result<Prepared> {
        if !self.path().exists() {
            self.check_room()?;
        }
        let source = Now {
            fingerprint: pack::source_fingerprint(self.source),
            contents: OnceLock::new(),
        };
        self.options.in_pool(|| {
            loop {
                if let Verdict::Use(pack) = self.judge(&source)? {
                    return Ok(Prepared {
                        pack: *pack,
                        made: false,
                    });
                }
                let Some(partial) = self.claim()? else {
                    continue;
                };
                // With the lock: until now another process may have made it.
                match self.judge(&source)? {
                    Verdict::Use(_) => continue,
                    Verdict::Make(None) => {}
                    Verdict::Make(Some(notice)) => (self.notice)(notice),
                }
                self.make(partial, &source.fingerprint)?;
                return match self.judge(&source)? {
                    Verdict::Use(pack) => Ok(Prepared {
                        pack: *pack,
                        made: true,
                    }),
                    Verdict::Make(Some(Notice::Delay(why) | Notice::Warning(why))) => {
                        bail!("{why}: something else writes there, or the disk is failing")
                    }
                    Verdict::Make(None) => bail!("{} was removed", shown(self.path())),
                };
            }
        })
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    /// Verifies what is there, as far as it takes to decide.
    fn judge(&self, source: &Now) -> Result<Verdict> {
        let path = shown(self.path());
        let named = matches!(self.place, Place::Named(_));
        let again = |why: &dyn std::fmt::Display| format!("{path}: {why}; making it again");
        let remove = |defect: &Unusable| match defect {
            Unusable::NotAPack | Unusable::NotAFile(_) => {
                format!("{path}: {defect}, and is not overwritten: choose another name")
            }
            _ => format!("{path}: {defect}: remove it, and it is made again from the images"),
        };
        let pack = match Pack::open(self.path()) {
            Ok(pack) => pack,
            Err(Unusable::Absent) => return Ok(Verdict::Make(None)),
            Err(defect @ Unusable::Version(_)) => {
                return Ok(Verdict::Make(Some(Notice::Delay(again(&defect)))));
            }
            Err(defect @ (Unusable::NotAPack | Unusable::Damaged(_))) if !named => {
                return Ok(Verdict::Make(Some(Notice::Warning(again(&defect)))));
            }
            Err(defect @ Unusable::Unreadable(_)) => bail!(match named {
                true => format!("{path}: {defect}: name another file"),
                false => format!(
                    "{path}: {defect}: no folder for packs of decoded images can be used there; set XDG_CACHE_HOME to a \
                     folder that can be read and written, or name a file with --pack"
                ),
            }),
            Err(defect) => bail!(remove(&defect)),
        };
        if let Some(why) = self.differs(&pack, source)? {
            return Ok(Verdict::Make(Some(Notice::Delay(again(&why)))));
        }
        let skipped = &pack.metadata().skipped;
        check_skipped(
            self.source,
            skipped,
            self.source.len(),
            self.options.max_bad,
        )?;
        match pack.verify(self.options.stop) {
            Ok(()) => Ok(Verdict::Use(Box::new(pack))),
            Err(error) => match error.downcast::<Unusable>() {
                Ok(defect @ Unusable::Damaged(_)) if !named => {
                    Ok(Verdict::Make(Some(Notice::Warning(again(&defect)))))
                }
                Ok(defect) => bail!(remove(&defect)),
                Err(error) => Err(error),
            },
        }
    }

    /// Why a whole pack is not what is wanted; an error where it is not ours to replace.
    fn differs(&self, pack: &Pack, source: &Now) -> Result<Option<String>> {
        let metadata = pack.metadata();
        let (has, wants) = (&metadata.recipe, &self.recipe);
        let alike = |recipe: &Recipe| {
            let condition = recipe
                .condition
                .as_ref()
                .map(|condition| match condition.of {
                    pack::Pictures::Edges(version) => (condition.channels, Some(version)),
                    pack::Pictures::Folder(_) => (condition.channels, None),
                });
            (recipe.size, recipe.channels, recipe.crop, condition)
        };
        let current = metadata.preprocessing == PREPROCESSING;
        // Images that were moved are the same images.
        let usable = current && alike(has) == alike(wants);
        if usable && (pack.source() == source.fingerprint || self.same_contents(pack, source)?) {
            return Ok(None);
        }
        if has == wants || matches!(self.place, Place::Cache(_)) {
            return Ok(Some(match current {
                true => format!("{} changed since the pack was made", self.data()),
                false => "another version of this program made the pack".to_string(),
            }));
        }
        let described = |recipe: &Recipe| {
            let crop = recipe
                .crop
                .map_or(String::new(), |crop| format!(", crop {crop}"));
            let paired = match recipe.condition.as_ref().map(|condition| &condition.of) {
                None => String::new(),
                Some(pack::Pictures::Edges(version)) => {
                    format!(", with edges of version {version}")
                }
                Some(pack::Pictures::Folder(folder)) => format!(", with pictures of {folder}"),
            };
            format!(
                "{}, {} px, {} channels{crop}{paired}",
                recipe.data.as_deref().unwrap_or(&recipe.dataset),
                recipe.size,
                recipe.channels
            )
        };
        bail!(
            "{}: this pack has other images ({}) than are wanted ({}), and is not overwritten: choose another name",
            shown(self.path()),
            described(has),
            described(wants)
        )
    }

    /// Whether the source, whose names or times are others than when the pack was made, still has the same images, in
    /// the same order, with all that is known of them. Remembered where the pack is this program's own.
    fn same_contents(&self, pack: &Pack, source: &Now) -> Result<bool> {
        let metadata = pack.metadata();
        let Some(then) = &metadata.contents else {
            return Ok(false);
        };
        if pack.len() + metadata.skipped.len() != self.source.len() {
            return Ok(false);
        }
        if source.contents.get().is_none() {
            (self.notice)(Notice::Delay(format!(
                "{} may have changed since the pack was made: comparing the contents of {} images",
                self.data(),
                self.source.len()
            )));
            let contents = contents_of(self.source, || self.options.stopped())?;
            // Nobody else sets it.
            let _ = source.contents.set(contents);
        }
        let same = source.contents.get().and_then(Option::as_ref) == Some(then);
        if same && matches!(self.place, Place::Cache(_)) {
            pack.adopt(source.fingerprint);
        }
        Ok(same)
    }

    fn data(&self) -> &str {
        let recipe = &self.recipe;
        recipe.data.as_deref().unwrap_or(&recipe.dataset)
    }

    /// The file to write into, locked; `None` when another process made the pack in the meantime, or gave up.
    fn claim(&self) -> Result<Option<Partial>> {
        let folder = files::parent(self.path());
        match self.place {
            Place::Cache(_) => {
                fs::create_dir_all(folder).with_context(|| {
                    format!(
                        "{}: the folder for packs of decoded images cannot be made; set XDG_CACHE_HOME to a folder \
                         that can be written, or name a file with --pack",
                        shown(folder)
                    )
                })?;
                remove_abandoned(folder);
            }
            Place::Named(_) => ensure!(
                folder.is_dir(),
                "{} cannot be made: there is no folder {}",
                shown(self.path()),
                shown(folder)
            ),
        }
        let name = self.path().file_name().context("a pack needs a name")?;
        let mut partial_name = std::ffi::OsString::from(files::PARTIAL);
        partial_name.push(name);
        let mut path = folder.join(&partial_name);
        loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(|error| self.cannot_write(error))?;
            match file.try_lock() {
                Ok(()) if files::is_still(&file, &path) => {
                    // What an interrupted process left is of no use.
                    file.set_len(0).map_err(|error| self.cannot_write(error))?;
                    return Ok(Some(Partial {
                        path,
                        file,
                        renamed: false,
                    }));
                }
                // It was renamed or removed just now.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    self.wait_for(&file)?;
                    return Ok(None);
                }
                // A file system without locks: a name of its own keeps two writers apart.
                Err(TryLockError::Error(_)) => {
                    partial_name.push(format!("-{}", std::process::id()));
                    path = folder.join(&partial_name);
                    let file = File::create_new(&path).map_err(|error| self.cannot_write(error))?;
                    return Ok(Some(Partial {
                        path,
                        file,
                        renamed: false,
                    }));
                }
            }
        }
    }

    /// Until the process that holds `file` lets go of it.
    fn wait_for(&self, file: &File) -> Result<()> {
        for attempt in 0.. {
            std::thread::sleep(PATIENCE);
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {}
                Ok(()) | Err(TryLockError::Error(_)) => break,
            }
            if self.options.stopped() {
                bail!("stopped while another process was preparing the images");
            }
            // Not of one that only looks whether the file is in use.
            if attempt == 0 {
                (self.notice)(Notice::Delay(format!(
                    "another process is preparing {}: waiting for it",
                    shown(self.path())
                )));
            }
        }
        Ok(())
    }

    fn make(&self, mut partial: Partial, source: &[u8; 32]) -> Result<()> {
        let Recipe {
            size,
            channels,
            crop,
            ref condition,
            ..
        } = self.recipe;
        let images = self.source;
        pack::check_size(size)?;
        ensure!(
            (self.options.size, self.options.crop, images.channels()) == (size, crop, channels)
                && images.condition_channels() == condition.as_ref().map_or(0, |c| c.channels),
            "the recipe of a pack is not that of its images"
        );
        self.check_room()?;
        memory::ensure(
            BLOCK as u64 + MIB * (STACK + rayon::current_num_threads() as u64),
            format_args!("{}: writing the pack", shown(self.path())),
            |_| "close other programs, or raise the limit".to_string(),
        )?;
        let file = partial.file.try_clone().context("cannot write the pack")?;
        let mut writer =
            Writer::new(file, size, channels).map_err(|error| self.cannot_write(error))?;
        let (skipped, damaged, contents) =
            decode_in_order(images, &self.options, |image, digest| {
                writer
                    .push(image, digest)
                    .map_err(|error| self.cannot_write(error))
            })?;
        let metadata = Metadata {
            recipe: self.recipe.clone(),
            preprocessing: PREPROCESSING.to_string(),
            describe: images.describe(),
            skipped,
            damaged,
            attribute_names: images.attribute_names().to_vec(),
            class_names: images.class_names().to_vec(),
            contents,
        };
        writer
            .finish(images, *source, &metadata)
            .map_err(|error| self.cannot_write(error))?;
        fs::rename(&partial.path, self.path())
            .with_context(|| format!("cannot rename into {}", shown(self.path())))?;
        partial.renamed = true;
        files::sync_folder(files::parent(self.path()))
    }

    /// Refuses a pack that its disk has no room for.
    fn check_room(&self) -> Result<()> {
        // The folder of the cache is made later.
        let mut folders = files::parent(self.path()).ancestors();
        let Some(free) = folders.find_map(files::free_bytes) else {
            return Ok(());
        };
        let needed = self.needed();
        let fewer = match self.recipe.drawn {
            Some(_) => {
                let each = (needed / self.source.len().max(1) as u64).max(1);
                format!("use --synthetic-count {} or less, ", free / each)
            }
            None => String::new(),
        };
        ensure!(
            needed <= free,
            "{}: the pack needs {} MiB, and {} MiB are free there: {fewer}{}",
            shown(self.path()),
            needed.div_ceil(1 << 20),
            free >> 20,
            self.remedy()
        );
        Ok(())
    }

    /// Bytes of the pixels of all images.
    fn needed(&self) -> u64 {
        let Recipe { size, channels, .. } = self.recipe;
        (size as u64 * size as u64)
            .saturating_mul(channels as u64)
            .saturating_mul(self.source.len() as u64)
    }

    fn remedy(&self) -> &'static str {
        match self.place {
            Place::Cache(_) => {
                "free some space, use a smaller --image-size, set XDG_CACHE_HOME to a folder elsewhere, or name a file \
                 elsewhere with --pack"
            }
            Place::Named(_) => {
                "free some space, use a smaller --image-size, or name a file elsewhere"
            }
        }
    }

    fn cannot_write(&self, error: io::Error) -> anyhow::Error {
        anyhow::Error::msg(format!(
            "{}: the pack of {} MiB cannot be written ({error}): {}",
            shown(self.path()),
            self.needed().div_ceil(1 << 20),
            self.remedy()
        ))
    }
}

/// A locked file that becomes a pack; removed when it is dropped before.
struct Partial {
    path: PathBuf,
    file: File,
    renamed: bool,
}

const MIB: u64 = 1 << 20;

/// MiB of the stack of the thread that writes; each that decodes has one, and takes as much as [`MIB`] for a small
/// image.
const STACK: u64 = 2;

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.renamed {
            // Best effort: the next process uses or removes what is left. The lock is still held.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what processes that were killed left in the cache; files that a process holds stay.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if !files::is_partial(&entry.file_name()) {
            continue;
        }
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
            && files::is_still(&file, &path)
        {
            // Best effort: it costs space, nothing else.
            let _ = fs::remove_file(&path);
        }
    }
}
