//! `report`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;

use crate::cli::options::{QuietArgs, start_threads};
use crate::cli::partial::{NOTHING_WRITTEN, until_stopped};
use crate::files;
use crate::output::print;
use crate::report::{Limits, is_report, page, read_runs};
use crate::text::shown;
use crate::train::stop::Stop;

/// The file's name where none is given.
const REPORT: &str = "report.html";

/// Bytes of all sample sheets of a page: browsers open it at once, and it can be mailed.
const SHEET_BYTES: usize = 24 << 20;

/// Show how runs went: one HTML file with curves, metrics, alarms, sample sheets and settings, which needs no network.
/// Prints its path.
#[derive(ClapArgs)]
pub struct Args {
    /// Run folders; several are drawn over each other
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page; one that is there is replaced if it is a report [default: report.html in the run folder, of several
    /// runs in the current folder]
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Sample sheets of a run on the page at most, evenly chosen; 0 for none
    #[arg(long, value_name = "N", default_value_t = 60)]
    sheets: usize,
    #[command(flatten)]
    quiet: QuietArgs,
}

impl Args {
    /// Reads the runs and writes the page.
    ///
    /// # Errors
    /// When a folder holds no run, no run has a log, or the page cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        start_threads(0)?;
        let out = self.out();
        // Of a run that is not there, something else is wrong than where its page goes.
        if self.out.is_some() || self.runs.len() > 1 || self.runs[0].is_dir() {
            check_out(&out)?;
        }
        let stop = Stop::install()?;
        until_stopped(&stop, NOTHING_WRITTEN, || {
            let limits = Limits {
                sheets: self.sheets,
                bytes: SHEET_BYTES / self.runs.len(),
            };
            let (runs, notes) = read_runs(&self.runs, limits, || stop.check())?;
            self.quiet.note(&notes);
            for run in &runs {
                let told = |note: &String| match runs.len() {
                    1 => note.clone(),
                    _ => format!("{}: {note}", run.name),
                };
                self.quiet
                    .note(&run.notes.iter().map(told).collect::<Vec<_>>());
            }
            let html = page(&runs, &notes)?;
            stop.check()?;
            // Again: it may have come to be there meanwhile.
            check_out(&out)?;
            files::write_atomically(&out, html.as_bytes()).with_context(|| {
                let out = shown(&out);
                format!(
                    "{out} cannot be written: make room or give rights, or choose another --out"
                )
            })?;
            print(&format!("{}\n", shown(&out)))?;
            Ok(ExitCode::SUCCESS)
        })
    }

    fn out(&self) -> PathBuf {
        match (&self.out, &self.runs[..]) {
            (Some(out), _) => out.clone(),
            (None, [run]) => run.join(REPORT),
            (None, _) => PathBuf::from(REPORT),
        }
    }
}

/// Refuses a name that no browser opens, and a file that is there and is no report.
fn check_out(out: &Path) -> Result<()> {
    ensure!(
        out.extension()
            .is_some_and(|end| end == "html" || end == "htm"),
        "--out {} cannot be used: a browser opens it by its name, which has to end in .html",
        shown(out)
    );
    if fs::symlink_metadata(out).is_err() {
        let folder = files::parent(out);
        ensure!(
            folder.is_dir(),
            "{} cannot be made: there is no folder {}",
            shown(out),
            shown(folder)
        );
        return Ok(());
    }
    let mut begin = Vec::new();
    let read = files::refuse_strange(out)
        .and_then(|()| files::open_regular(out))
        .and_then(|file| file.take(256).read_to_end(&mut begin));
    if read.is_err() || !is_report(&begin) {
        bail!(
            "{} is there already, is no report, and is not overwritten: choose another --out, or remove it",
            shown(out)
        );
    }
    Ok(())
}
