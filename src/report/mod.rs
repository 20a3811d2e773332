//! Runs as one page to look at: an HTML file that needs nothing else, made of what runs leave in their folders.
//!
//! `log` reads `log.jsonl`, `curve` keeps long ones short, `sheets` takes the sample sheets in, `folder` puts these
//! together for a run, and `page` makes the file. Whatever is read may be damaged, cut off or hostile: it is counted and
//! left out, and nothing of it reaches the page as more than text or pixels.

mod curve;
mod folder;
mod log;
mod page;
mod sheets;

pub use curve::MOST_POINTS;
pub use folder::{Run, read_runs};
pub use page::{is_report, page};
pub use sheets::Limits;
