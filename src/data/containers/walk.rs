//! The walk through a folder that every source of files takes: each real folder and file once, links followed, what is
//! left out counted.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::data::containers::names::{LeftOut, extension, is_hidden, is_system};
use crate::files::read_regular;
use crate::text::shown;

/// Zips that are remembered, to be compared with the folder that they lie in.
const ZIPS: usize = 4;
/// A longer `config.json` is none of this program's.
const MAX_CONFIG: u64 = 1 << 20;

const LINKS_NOWHERE: &str = "links that lead nowhere";
const SEEN_FOLDERS: &str = "links to folders that are read already";
const SEEN_FILES: &str = "links to files that are read already";
const RUNS: &str = "run folders of this program, whose pictures are samples";
const SYSTEM: &str = "files and folders of the system";
const HIDDEN: &str = "hidden files and folders";
const SPECIAL: &str = "no files but pipes, sockets or devices";

/// What is below a folder.
#[derive(Debug, Default)]
pub struct Walk {
    /// The files that are wanted, relative to the folder, sorted by path.
    pub files: Vec<PathBuf>,
    /// All else.
    pub left_out: LeftOut,
    /// Zips among that, relative to the folder; the first few.
    pub zips: Vec<PathBuf>,
}

/// A file or folder, whatever path leads to it: its device and number.
type Identity = (u64, u64);

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

struct Walker<'a> {
    root: &'a Path,
    wanted: &'a dyn Fn(&str) -> bool,
    /// Folders that were read, and those that the root lies in: to go on there would lead in a circle.
    folders: HashSet<Identity>,
    /// Files that were found; filled when the first link to a file is met.
    files: Option<HashSet<Identity>>,
    /// Links that are still to be followed, relative to the root.
    links: Vec<PathBuf>,
    found: Walk,
}

/// All files below `root`, at any depth, whose names are `wanted`. Hidden files and folders and those of the system are
/// left out, and so are run folders of this program. Links are followed after all else: what was read already is not
/// read again, so that folders that link to one another come to an end.
///
/// # Errors
/// When the folder or one below it cannot be listed. The message names the folder.
pub fn walk(root: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Walk> {
    let mut walker = Walker {
        root,
        wanted,
        folders: HashSet::new(),
        files: None,
        links: Vec::new(),
        found: Walk::default(),
    };
    if let Ok(full) = root.canonicalize() {
        let above = full.ancestors().skip(1);
        let above = above.filter_map(|folder| fs::metadata(folder).ok());
        walker.folders.extend(above.map(|folder| identity(&folder)));
    }
    walker.read_tree(PathBuf::new())?;
    while !walker.links.is_empty() {
        let mut links = std::mem::take(&mut walker.links);
        links.sort_unstable();
        for link in links {
            walker.follow(link)?;
        }
    }
    walker.found.files.sort_unstable();
    Ok(walker.found)
}

impl Walker<'_> {
    fn leave_out(&mut self, reason: &'static str, path: &Path) {
        self.found.left_out.because(reason, &shown(path));
    }

    /// Reads a folder and those below it, links excepted.
    fn read_tree(&mut self, start: PathBuf) -> Result<()> {
        let mut folders = vec![start];
        while let Some(folder) = folders.pop() {
            let path = self.root.join(&folder);
            let cannot = || format!("{}: cannot be listed", shown(&path));
            let metadata = fs::metadata(&path).with_context(cannot)?;
            if !self.folders.insert(identity(&metadata)) {
                self.leave_out(SEEN_FOLDERS, &folder);
                continue;
            }
            let mut entries: Vec<(OsString, FileType)> = Vec::new();
            for entry in fs::read_dir(&path).with_context(cannot)? {
                let entry = entry.with_context(cannot)?;
                entries.push((entry.file_name(), entry.file_type().with_context(cannot)?));
            }
            if is_run_folder(&path, &entries) {
                let shown = match folder.as_os_str().is_empty() {
                    true => self.root,
                    false => &folder,
                };
                self.found
                    .left_out
                    .because(RUNS, &crate::text::shown(shown));
                continue;
            }
            entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            for (name, kind) in entries {
                let path = folder.join(&name);
                let name = name.to_string_lossy();
                if is_system(&name) {
                    self.leave_out(SYSTEM, &path);
                } else if is_hidden(&name) {
                    self.leave_out(HIDDEN, &path);
                } else if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_symlink() {
                    self.links.push(path);
                } else {
                    self.add_file(path, kind);
                }
            }
        }
        Ok(())
    }

    /// Reads what a link leads to.
    fn follow(&mut self, link: PathBuf) -> Result<()> {
        let Ok(metadata) = fs::metadata(self.root.join(&link)) else {
            self.leave_out(LINKS_NOWHERE, &link);
            return Ok(());
        };
        if metadata.is_dir() {
            return self.read_tree(link);
        }
        let wanted = link.file_name().is_some_and(|n| self.wants(n));
        if metadata.is_file() && wanted {
            let (root, found) = (self.root, &self.found.files);
            let files = self.files.get_or_insert_with(|| {
                let found = found.iter().map(|file| fs::metadata(root.join(file)));
                found.flatten().map(|file| identity(&file)).collect()
            });
            if !files.insert(identity(&metadata)) {
                self.leave_out(SEEN_FILES, &link);
                return Ok(());
            }
        }
        self.add_file(link, metadata.file_type());
        Ok(())
    }

    fn wants(&self, name: &std::ffi::OsStr) -> bool {
        (self.wanted)(&name.to_string_lossy())
    }

    /// Adds what is no folder, if it is wanted.
    fn add_file(&mut self, path: PathBuf, kind: FileType) {
        let name = path.file_name().unwrap_or_default();
        if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            self.leave_out(SPECIAL, &path);
        } else if self.wants(name) {
            if let Some(files) = &mut self.files
                && let Ok(metadata) = fs::metadata(self.root.join(&path))
            {
                files.insert(identity(&metadata));
            }
            self.found.files.push(path);
        } else {
            let name = name.to_string_lossy();
            self.found.left_out.file(&name);
            if extension(&name).as_deref() == Some("zip") && self.found.zips.len() < ZIPS {
                self.found.zips.push(path);
            }
        }
    }
}

/// Whether the folder at `path`, with these entries, is one that this program trained in: by what is in it, since it may
/// have been moved or renamed.
fn is_run_folder(path: &Path, entries: &[(OsString, FileType)]) -> bool {
    let has = |name: &str| entries.iter().any(|(entry, _)| entry == name);
    if !has("config.json") {
        // One whose options were lost.
        return has("log.jsonl") && has("checkpoints") && has("samples");
    }
    let config = path.join("config.json");
    let short = fs::metadata(&config).is_ok_and(|config| config.len() <= MAX_CONFIG);
    let bytes: io::Result<Vec<u8>> = match short {
        true => read_regular(&config),
        false => return false,
    };
    let Ok(serde_json::Value::Object(options)) = serde_json::from_slice(&bytes.unwrap_or_default())
    else {
        return has("log.jsonl") && has("checkpoints");
    };
    let named = [
        "dataset",
        "image_size",
        "latent_dim",
        "sample_every",
        "lr_g",
    ];
    named.iter().all(|name| options.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(walk: &Walk) -> Vec<&str> {
        walk.files.iter().filter_map(|path| path.to_str()).collect()
    }

    /// Seen: 219 200 files of 16, and no end with one folder more.
    #[test]
    fn folders_that_link_to_one_another_are_read_once() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: String| root.path().join(path);
        for a in 0..12 {
            fs::create_dir(at(format!("{a:02}"))).unwrap();
            fs::write(at(format!("{a:02}/x.jpg")), "").unwrap();
        }
        for (a, b) in (0..12).flat_map(|a| (0..12).map(move |b| (a, b))) {
            symlink(at(format!("{b:02}")), at(format!("{a:02}/to-{b:02}"))).unwrap();
        }
        symlink("..", at("up".to_owned())).unwrap();
        symlink("/", at("all".to_owned())).unwrap();
        let found = walk(root.path(), &|name| name.ends_with(".jpg")).unwrap();
        assert_eq!(found.files.len(), 12);
        assert!(names(&found).iter().all(|name| name.len() == 8));
        let notes = found.left_out.notes().join("\n");
        assert!(
            notes.contains("links to folders that are read already: 146"),
            "{notes}"
        );
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_followed_once() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("blob"), "").unwrap();
        fs::create_dir(other.path().join("more")).unwrap();
        fs::write(other.path().join("more/c.jpg"), "").unwrap();
        for link in ["b.jpg", "a.jpg"] {
            symlink(other.path().join("blob"), root.path().join(link)).unwrap();
        }
        symlink(other.path().join("more"), root.path().join("z")).unwrap();
        symlink("none.jpg", root.path().join("gone.jpg")).unwrap();
        symlink("circle.jpg", root.path().join("circle.jpg")).unwrap();
        let found = walk(root.path(), &|name| name.ends_with(".jpg")).unwrap();
        assert_eq!(names(&found), ["a.jpg", "z/c.jpg"]);
        let notes = found.left_out.notes().join("\n");
        assert!(
            notes.contains("lead nowhere: 2 (circle.jpg, gone.jpg)"),
            "{notes}"
        );
        assert!(
            notes.contains("files that are read already: 1 (b.jpg)"),
            "{notes}"
        );
    }
}
