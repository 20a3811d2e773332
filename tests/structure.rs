//! The structure of `src/`: no file imports in a circle, none imports upwards, and the generic parts know no CUDA.
//!
//! Read from the sources as text: `use` declarations and paths that begin with `crate`, `super` or `self`, without what
//! is compiled for tests only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. A module imports from its own floor and those below it; docs/how-it-works.md has the picture.
const FLOORS: &[&[&str]] = &[
    &["hex", "numeric", "random", "text"],
    // They name files to people, and print.
    &["files", "output"],
    &["memory"],
    &["model"],
    &["backend"],
    // The loader writes the backend's batches.
    &["data"],
    &["gan"],
    &["evaluate"],
    &["latent", "train", "self_test"],
    &["explore", "report"],
    &["cli"],
];

/// Who may name what lies below `backend::cuda`: who makes a backend, and who tests one.
const KNOW_CUDA: &[&str] = &["backend::cuda", "self_test", "cli"];

/// Files above [`LONG`] lines, and the one thing that each holds.
const LONG: usize = 600;
const LONG_FILES: &[(&str, &str)] = &[("data/synthetic/render.rs", "how a face is drawn")];

type Module = Vec<String>;

struct Sources {
    /// Files by module, `crate` left out.
    files: BTreeMap<Module, PathBuf>,
    texts: BTreeMap<Module, String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Text before the unit tests, without comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = text.lines().map(|line| match line.find("//") {
        Some(at) => &line[..at],
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

impl Sources {
    fn read() -> Self {
        let mut paths = Vec::new();
        files_below(&root(), &mut paths);
        let (mut files, mut texts) = (BTreeMap::new(), BTreeMap::new());
        for path in paths {
            let inside = path.strip_prefix(root()).unwrap().with_extension("");
            let mut module: Module = inside
                .iter()
                .map(|part| part.to_str().unwrap().to_string())
                .collect();
            if module == ["main"] || module == ["lib"] {
                continue;
            }
            if module.last().is_some_and(|last| last == "mod") {
                module.pop();
            }
            texts.insert(module.clone(), code(&fs::read_to_string(&path).unwrap()));
            files.insert(module, path);
        }
        assert!(files.len() > 50, "only {} files were found", files.len());
        Self { files, texts }
    }

    /// The module that `path`, given in the file of `from`, lies in, and what follows.
    fn resolve(&self, from: &Module, path: &[&str]) -> Option<(Module, Vec<String>)> {
        let is_folder = self.files[from].ends_with("mod.rs");
        let mut base = match path[0] {
            "crate" => Vec::new(),
            "self" => from.clone(),
            "super" => from[..from.len() - 1].to_vec(),
            // A folder's mod.rs names what it declares without a prefix.
            name if is_folder && self.files.contains_key(&child(from, name)) => child(from, name),
            _ => return None,
        };
        let mut rest = &path[1..];
        while let Some(("super", after)) = rest.split_first().map(|(first, after)| (*first, after))
        {
            base.pop();
            rest = after;
        }
        while let Some((first, after)) = rest.split_first() {
            let next = child(&base, first);
            if !self.files.contains_key(&next) && !self.files.keys().any(|m| m.starts_with(&next)) {
                break;
            }
            (base, rest) = (next, after);
        }
        let rest = rest.iter().map(|part| part.to_string()).collect();
        self.files.contains_key(&base).then_some((base, rest))
    }

    /// Where `name` comes from that the file of `module` only hands on (`pub use`), if it does.
    fn handed_on(&self, module: &Module, name: &str) -> Option<Module> {
        let text = &self.texts[module];
        for declaration in uses(text, "pub use ") {
            let parts: Vec<&str> = declaration.split("::").collect();
            if parts.last() == Some(&name)
                && let Some((from, _)) = self.resolve(module, &parts)
                && from != *module
            {
                return Some(from);
            }
        }
        None
    }

    /// The modules that each imports.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut all = BTreeMap::new();
        for (module, text) in &self.texts {
            let mut found = BTreeSet::new();
            for path in uses(text, "use ").into_iter().chain(inline(text)) {
                let parts: Vec<&str> = path.split("::").collect();
                let Some((mut to, rest)) = self.resolve(module, &parts) else {
                    continue;
                };
                if let Some(name) = rest.first()
                    && let Some(from) = self.handed_on(&to, name)
                {
                    to = from;
                }
                // A folder holds its files, and its files know its mod.rs: that is one thing.
                if to != *module && !module.starts_with(&to) && !to.starts_with(module) {
                    found.insert(to);
                }
            }
            all.insert(module.clone(), found);
        }
        all
    }
}

fn child(module: &Module, name: &str) -> Module {
    let mut child = module.clone();
    child.push(name.to_string());
    child
}

/// The paths of all declarations that begin with `keyword`, one a name.
fn uses(text: &str, keyword: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(keyword) {
        let before = rest[..at].chars().next_back();
        rest = &rest[at + keyword.len()..];
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let Some(end) = rest.find(';') else { break };
        let declaration: String = rest[..end].split_whitespace().collect::<Vec<_>>().join(" ");
        expand(&declaration, &mut all);
    }
    all
}

/// `a::{b, c as d}` → `a::b`, `a::c`.
fn expand(text: &str, all: &mut Vec<String>) {
    let Some((prefix, inner)) = text.split_once('{') else {
        let name = text.split(" as ").next().unwrap_or_default().trim();
        all.push(name.trim_end_matches("::self").to_string());
        return;
    };
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[start..at].trim();
                if !part.is_empty() {
                    expand(&format!("{prefix}{part}"), all);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Paths inside the code that begin with `crate::` or `super::`.
fn inline(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for keyword in ["crate::", "super::"] {
        for (at, _) in text.match_indices(keyword) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let end = text[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let path = &text[at..end.map_or(text.len(), |end| at + end)];
            all.push(path.trim_end_matches(':').to_string());
        }
    }
    all
}

fn name(module: &Module) -> String {
    module.join("::")
}

/// A chain of imports that ends where it began, if there is one.
fn circle(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    // What has no import left that could lead back is taken away, until nothing changes.
    let mut left: BTreeMap<&Module, BTreeSet<&Module>> = imports
        .iter()
        .map(|(m, to)| (m, to.iter().collect()))
        .collect();
    loop {
        let there: BTreeSet<&Module> = left.keys().copied().collect();
        let before = left.len();
        left.retain(|_, to| to.iter().any(|t| there.contains(t)));
        if left.len() == before {
            break;
        }
    }
    let mut chain: Vec<&Module> = vec![left.keys().next()?];
    loop {
        let last = chain[chain.len() - 1];
        let next = left[last].iter().find(|t| left.contains_key(**t))?;
        if let Some(at) = chain.iter().position(|m| m == next) {
            return Some(chain[at..].iter().map(|m| name(m)).collect());
        }
        chain.push(next);
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = Sources::read().imports();
    let edges: usize = imports.values().map(BTreeSet::len).sum();
    assert!(edges > 150, "only {edges} imports were found");
    if let Some(circle) = circle(&imports) {
        panic!(
            "these import each other in a circle: {}",
            circle.join(" → ")
        );
    }
}

#[test]
fn nothing_imports_upwards() {
    let floor = |module: &Module| {
        let found = FLOORS.iter().position(|f| f.contains(&&*module[0]));
        found.unwrap_or_else(|| panic!("{} is on no floor of {FLOORS:?}", module[0]))
    };
    for (module, imports) in Sources::read().imports() {
        for to in imports {
            let same = module[0] == to[0];
            assert!(
                same || floor(&to) < floor(&module),
                "{} imports {}, which lies on its floor or above",
                name(&module),
                name(&to)
            );
        }
    }
}

#[test]
fn the_generic_parts_know_no_cuda() {
    for (module, text) in &Sources::read().texts {
        let from = name(module);
        if KNOW_CUDA.iter().any(|who| from.starts_with(who)) {
            continue;
        }
        for path in uses(text, "use ").into_iter().chain(inline(text)) {
            let there =
                path.contains("backend::cuda") || from == "backend" && path.contains("cuda");
            assert!(!there, "{from} names {path}");
        }
        let at_the_boundary = from == "backend" && text.contains("cuda::");
        assert!(!at_the_boundary, "{from} names what lies below cuda");
    }
}

#[test]
fn long_files_hold_one_thing() {
    let mut long = BTreeSet::new();
    for path in Sources::read().files.values() {
        let lines = fs::read_to_string(path).unwrap().lines().count();
        if lines > LONG {
            let inside = path.strip_prefix(root()).unwrap();
            let inside = inside.to_str().unwrap().to_string();
            let known = LONG_FILES.iter().any(|(file, _)| *file == inside);
            assert!(
                known,
                "src/{inside} has {lines} lines: split it, or say in LONG_FILES which one thing it holds"
            );
            long.insert(inside);
        }
    }
    for (file, _) in LONG_FILES {
        assert!(long.contains(*file), "src/{file} is not long any more");
    }
}

#[test]
fn circles_are_found() {
    let module = |text: &str| text.split("::").map(str::to_string).collect::<Module>();
    let edge = |from: &str, to: &[&str]| (module(from), to.iter().map(|t| module(t)).collect());
    let mut imports = BTreeMap::from([edge("a", &["b"]), edge("b", &["c"]), edge("c", &[])]);
    assert_eq!(circle(&imports), None);
    imports.extend([edge("c", &["b"])]);
    assert_eq!(circle(&imports), Some(vec!["b".into(), "c".into()]));
    let mut all = Vec::new();
    expand("crate::a::{self, b::{C, D as E}, F}", &mut all);
    assert_eq!(
        all,
        [
            "crate::a",
            "crate::a::b::C",
            "crate::a::b::D",
            "crate::a::F"
        ]
    );
}
