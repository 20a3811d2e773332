//! Names of files, as folders and archives have them: brought into one form before anything judges them, and judged in
//! one place for all sources.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use crate::text::escaped;

/// Extensions of the image files that are read, lower case.
pub const IMAGE_EXTENSIONS: [&str; 18] = [
    "jpg", "jpeg", "jpe", "jfif", "jif", "png", "apng", "bmp", "dib", "webp", "gif", "tif", "tiff",
    "pnm", "ppm", "pgm", "pbm", "pam",
];

/// Extensions of pictures that are not read, lower case.
const OTHER_PICTURES: [&str; 27] = [
    "avif", "heic", "heif", "hif", "jxl", "jp2", "j2k", "jpx", "jxr", "svg", "psd", "xcf", "ico",
    "icns", "tga", "exr", "hdr", "dds", "raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "raf",
    "rw2",
];

/// Folders that operating systems, file systems and storage devices make for themselves, lower case.
const SYSTEM_FOLDERS: [&str; 12] = [
    "__macosx",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
    "found.000",
    "network trash folder",
];

/// Files that they make, lower case.
const SYSTEM_FILES: [&str; 4] = ["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"];

/// The extension of a file name in lower case, without the dot; `None` where it has none.
pub fn extension(name: &str) -> Option<String> {
    let base = name.rsplit('/').next().unwrap_or(name);
    let (stem, extension) = base.rsplit_once('.')?;
    (!stem.is_empty() && !extension.is_empty()).then(|| extension.to_lowercase())
}

/// Whether a file name has the extension of an image that is read, in any case.
pub fn is_image_name(name: &str) -> bool {
    extension(name).is_some_and(|extension| IMAGE_EXTENSIONS.contains(&&*extension))
}

/// Whether a file name has the extension of a picture that is not read, in any case.
pub fn is_other_picture_name(name: &str) -> bool {
    extension(name).is_some_and(|extension| OTHER_PICTURES.contains(&&*extension))
}

/// Whether a file or folder of this name is left out: it is hidden, or of the system.
pub fn is_hidden(part: &str) -> bool {
    part.starts_with('.') || is_system(part)
}

/// Whether a file or folder of this name is one that systems make for themselves: thumbnails, bins, resource forks.
pub fn is_system(part: &str) -> bool {
    let part = part.to_lowercase();
    SYSTEM_FOLDERS.contains(&&*part) || SYSTEM_FILES.contains(&&*part) || part.starts_with(".trash")
}

/// The name of an entry of an archive in one form: parts joined by `/`, whether the archive has `/` or `\`, without
/// `.` and without empty parts (`./a//b\c` is `a/b/c`). Empty for the folder of the archive itself.
///
/// # Errors
/// When the name could lead out of the folder that the archive is unpacked to: it is absolute, goes up by `..`, or has a
/// zero byte. The message names the entry.
pub fn normalized(raw: &str) -> Result<String> {
    let drive = raw.as_bytes().get(1) == Some(&b':');
    let absolute = raw.starts_with(['/', '\\']) || drive;
    let climbs = raw.split(['/', '\\']).any(|part| part == "..");
    ensure!(
        !absolute && !climbs && !raw.contains('\0'),
        "entry {raw:?} has {} path, which could leave the archive's folder: the archive is refused; get it from \
         another place",
        if absolute { "an absolute" } else { "an unsafe" }
    );
    let parts = raw.split(['/', '\\']);
    let parts: Vec<&str> = parts
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    Ok(parts.join("/"))
}

/// Whether a normalised name of an archive lies in something hidden, or is it.
pub fn has_hidden_part(name: &str) -> bool {
    name.split('/').any(is_hidden)
}

/// Whether a file is a pointer of Git LFS: the text that stands in a repository in the place of a file that was not
/// fetched.
pub fn is_lfs_pointer(bytes: &[u8]) -> bool {
    // Pointers have less than 1 KiB, by their specification.
    bytes.len() < 1024
        && (bytes.starts_with(b"version https://git-lfs.github.com/spec/")
            || bytes.starts_with(b"version https://hawser.github.com/spec/"))
}

/// Refuses a pointer of Git LFS where a file should be.
///
/// # Errors
/// When [`is_lfs_pointer`]; the message lacks the name.
pub fn refuse_lfs_pointer(bytes: &[u8]) -> Result<()> {
    if is_lfs_pointer(bytes) {
        bail!(
            "this is a pointer of Git LFS, not the file: run `git lfs pull` in the repository that it lies in"
        );
    }
    Ok(())
}

/// What a source leaves out, counted, so that nothing is left out without a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Pictures of formats that are not read, by extension.
    pictures: BTreeMap<String, usize>,
    /// What is no picture by its name, by extension.
    others: BTreeMap<String, usize>,
    /// What was left out for other reasons: the reason, how often, and the first few names.
    reasons: BTreeMap<&'static str, (usize, Vec<String>)>,
}

/// How many names are given as examples.
const EXAMPLES: usize = 3;
/// How many extensions are listed.
const LISTED: usize = 8;

impl LeftOut {
    /// Counts a file that is no image that is read, by its extension.
    pub fn file(&mut self, name: &str) {
        let counts = match is_other_picture_name(name) {
            true => &mut self.pictures,
            false => &mut self.others,
        };
        *counts
            .entry(extension(name).unwrap_or_default())
            .or_default() += 1;
    }

    /// Counts what is left out for a `reason`, which is a plural ("links that lead nowhere"). `name` is foreign text.
    pub fn because(&mut self, reason: &'static str, name: &str) {
        let (count, names) = self.reasons.entry(reason).or_default();
        *count += 1;
        if names.len() < EXAMPLES {
            names.push(escaped(name).into_owned());
        }
    }

    /// Adds what another part of the source left out.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.pictures, &other.pictures),
            (&mut self.others, &other.others),
        ] {
            for (extension, count) in theirs {
                *mine.entry(extension.clone()).or_default() += count;
            }
        }
        for (reason, (count, names)) in &other.reasons {
            let mine = self.reasons.entry(reason).or_default();
            mine.0 += count;
            let room = EXAMPLES - mine.1.len().min(EXAMPLES);
            mine.1.extend(names.iter().take(room).cloned());
        }
    }

    /// One line for people a kind of thing; none where nothing was left out.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.pictures.is_empty() {
            notes.push(format!(
                "left out, since these formats are not read: {}; convert them to JPEG or PNG to use them",
                by_extension(&self.pictures)
            ));
        }
        if !self.others.is_empty() {
            notes.push(format!(
                "left out, since their names are not those of pictures: {}",
                by_extension(&self.others)
            ));
        }
        for (reason, (count, names)) in &self.reasons {
            let more = match *count > names.len() {
                true => ", …",
                false => "",
            };
            notes.push(format!(
                "left out, {reason}: {count} ({}{more})",
                names.join(", ")
            ));
        }
        notes
    }
}

/// `.avif 8, .heic 4`, the commonest first.
fn by_extension(counts: &BTreeMap<String, usize>) -> String {
    let mut sorted: Vec<(&String, &usize)> = counts.iter().collect();
    sorted.sort_by_key(|&(extension, count)| (std::cmp::Reverse(*count), extension));
    let listed = sorted
        .iter()
        .take(LISTED)
        .map(|(extension, count)| match extension.is_empty() {
            true => format!("without an extension {count}"),
            false => format!(".{} {count}", escaped(extension)),
        });
    let mut text = listed.collect::<Vec<_>>().join(", ");
    let rest: usize = sorted.iter().skip(LISTED).map(|(_, count)| **count).sum();
    if rest > 0 {
        text += &format!(", others {rest}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_and_have_one_form() {
        for (raw, name) in [
            ("a.jpg", "a.jpg"),
            ("./img/a.jpg", "img/a.jpg"),
            (".\\img\\\\a.jpg", "img/a.jpg"),
            ("a..b/c", "a..b/c"),
            ("..a", "..a"),
            ("img/", "img"),
            ("./", ""),
        ] {
            assert_eq!(normalized(raw).unwrap(), name, "{raw}");
        }
        for bad in [
            "/a",
            "\\a",
            "C:\\a",
            "C:a",
            "../a",
            "a/../../b",
            "a\\..\\b",
            "..",
            "a\0b",
        ] {
            assert!(normalized(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_judged_in_any_case() {
        for image in ["a.JPG", "b/c.Jfif", "22.05.jpe", "x.TIFF", "y.pbm"] {
            assert!(is_image_name(image), "{image}");
        }
        for other in ["a.avif", "jpg", ".jpg", "a.jpg.txt", "a.jpg/b"] {
            assert!(!is_image_name(other), "{other}");
        }
        for hidden in [".a", "@eaDir", "$RECYCLE.BIN", "Thumbs.db", ".Trash-1000"] {
            assert!(is_hidden(hidden), "{hidden}");
        }
        assert!(!is_hidden("a.b") && !is_hidden("recycled"));
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let mut all = LeftOut::default();
        for name in ["a.avif", "b.HEIC", "c.avif", "d.txt", "e", "x\x1b.t\x1bt"] {
            all.file(name);
        }
        let mut more = LeftOut::default();
        for at in 0..5 {
            more.because("links that lead nowhere", &format!("l{at}\n"));
        }
        all.add(&more);
        let notes = all.notes().join("\n");
        for part in [
            ".avif 2, .heic 1",
            "without an extension 1, .t\\u{1b}t 1, .txt 1",
            "links that lead nowhere: 5 (l0\\n, l1\\n, l2\\n, …)",
        ] {
            assert!(notes.contains(part), "lacks {part}: {notes}");
        }
    }
}
