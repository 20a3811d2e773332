//! What the fuzz targets run, on the files that they start from (fuzz/corpus, scripts/make-fuzz-seeds.py): no parser
//! panics on any, and each takes one at least, so that fuzzing does begin behind its first check.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

#[test]
fn every_parser_takes_or_refuses_its_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut sources: Vec<String> = fs::read_dir(root.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    sources.sort_unstable();
    let names = fuzz::TARGETS.map(|(name, _)| format!("{name}.rs"));
    assert_eq!(sources, names, "targets and their list differ");
    for (name, run) in fuzz::TARGETS {
        let (mut files, mut taken) = (0, 0);
        for entry in fs::read_dir(root.join("corpus").join(name)).unwrap() {
            let path = entry.unwrap().path();
            // Shown where the test fails.
            println!("{}", path.display());
            taken += usize::from(run(&fs::read(&path).unwrap()));
            files += 1;
        }
        assert!(taken > 0, "{name}: none of {files} files is taken");
        assert!(
            taken < files || name == "decode",
            "{name}: all {files} files are taken"
        );
    }
}
